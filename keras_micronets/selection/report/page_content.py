"""What the page says in words, and whom it compares."""

from collections.abc import Callable, Sequence
from functools import partial
from xml.etree.ElementTree import Element, SubElement, tostring

from keras_micronets.selection.methods import METHODS
from keras_micronets.selection.report.report import (
    FIGURES,
    LearnerRow,
    SelectionReport,
    figures,
)
from keras_micronets.selection.selection import Selection

_RIVALS = ("greedy", "top_k", "random_k")


def methods(selection: Selection) -> dict[str, Callable[..., Selection]]:
    """Find the function that made a selection, if it is one of ours, and its rivals."""
    own = _own_method(selection)
    return own | {name: METHODS[name] for name in _RIVALS if name not in own}


def _own_method(selection: Selection) -> dict[str, Callable[..., Selection]]:
    if selection.choice is not None:
        name = selection.choice.method
        return {name: METHODS[name]} if name in METHODS else {}
    if selection.method == "KMeans":
        chosen = partial(METHODS["cluster"], representative=selection.representative)
        return {"cluster": chosen}
    name, _, kind = selection.method.partition(" by ")
    if name not in METHODS:
        return {}
    options = {"by" if name == "top_k" else "loss": kind} if kind else {}
    return {selection.method: partial(METHODS[name], **options)}


def title(report: SelectionReport) -> str:
    """Say how many are kept."""
    return f"{_kept(report)} kept"


def summary(report: SelectionReport, mean_of_all: dict[str, float]) -> str:
    """Say in a paragraph what was kept, how, and what it is worth."""
    ensemble, best, together = map(_scores, compared(report, mean_of_all).values())
    how = report.method
    if report.representative:
        how += f" (representative: {report.representative})"
    verb = "is" if len(report.kept) == 1 else "are"
    samples = _many(report.n_samples, "sample")
    text = (
        f"{_kept(report)} {verb} kept, chosen by {how} on {samples}. On these the "
        f"ensemble reaches an accuracy of {ensemble}, the best single learner {best}, "
        f"and the mean of all learners {together}. "
    )
    if report.disagreement is not None:
        text += f"Two learners differ in {report.disagreement:.1%} of their predictions"
        if report.disagreement_kept is not None:
            text += f", two kept ones in {report.disagreement_kept:.1%}"
        text += ". "
    return text + (
        "Scores on samples that were used for choosing flatter: "
        "judge the ensemble on others."
    )


def compared(
    report: SelectionReport, mean_of_all: dict[str, float]
) -> dict[str, dict[str, float]]:
    """Give the measures of the ensemble, the best learner and the mean of all."""
    best = min(report.rows, key=lambda r: (-r.accuracy, r.negative_log_likelihood))
    unknown = {"n_bytes": None, "gzip_bytes": None, "milliseconds": None}
    return {
        f"ensemble of {len(report.kept)}": report.ensemble,
        f"best learner, {best.name}": best._asdict(),
        f"mean of all {len(report.rows):,}": {**mean_of_all, **unknown},
    }


def _scores(values: dict[str, float]) -> str:
    return (
        f"{values['accuracy']:.1%} (NLL "
        f"{values['negative_log_likelihood']:.3f}, ECE "
        f"{values['expected_calibration_error']:.3f})"
    )


def _kept(report: SelectionReport) -> str:
    return f"{len(report.kept):,} of {_many(len(report.rows), 'learner')}"


def _many(count: int, name: str) -> str:
    return f"{count:,} {name}" + ("s" if count != 1 else "")


_MOST_ROWS = 200
_GLOSSARY = (
    "acc.: accuracy. NLL: negative log-likelihood, in nats; lower is better. ECE: "
    "expected calibration error, how far confidence and accuracy are apart; lower is "
    "better. why: the place by accuracy, in the cluster where there are clusters."
)
_SIZES = slice(FIGURES.index("kB"), None)


def comparison(values: dict[str, dict[str, float]]) -> str:
    """Write a table of the measures of some predictors.

    Args:
        values: Dictionary from a name to the measures.
    """
    lines = [([name, *figures(of)[:3]], "") for name, of in values.items()]
    return _scrolled(
        "The ensemble and what it is compared to", ["", *FIGURES[:3]], lines
    )


def learners(report: SelectionReport) -> str:
    """Write the table of learners: the kept first, then the most accurate."""
    rows = sorted(report.rows, key=lambda r: (not r.kept, -r.accuracy, r.index))
    shown = rows[: max(_MOST_ROWS, len(report.kept))]
    lines = [(_cells(row), "kept" if row.kept else "") for row in shown]
    header = ["learner", "kept", "cluster", *FIGURES, "why"]
    words = _GLOSSARY
    if len(shown) < len(rows):
        words = (
            f"Shown are the {len(report.kept)} kept learners and the most accurate "
            f"others: {len(rows) - len(shown):,} of {len(rows):,} are left out. {words}"
        )
    return _scrolled("The learners", header, lines) + _note(words)


def sizes(report: SelectionReport) -> str:
    """Write the table of the sizes and the time of the kept; empty if not known."""
    lines = [([row.name, *figures(row._asdict())[_SIZES]], "") for row in report.kept]
    if not any("".join(cells[1:]) for cells, _ in lines):
        return ""
    lines.append((["together", *figures(report.ensemble)[_SIZES]], "total"))
    heading = Element("h3")
    heading.text = "What goes to the device"
    return (
        f'<section class="sizes">{_html(heading)}'
        + _scrolled("Size and time of the kept", ["", *FIGURES[_SIZES]], lines)
        + _note(
            "kB: 1,000 bytes of each learner's file, and after gzip. ms: milliseconds "
            "for one sample. Together is the sum, as members run one after the other."
        )
        + "</section>"
    )


def _cells(row: LearnerRow) -> list[str]:
    label = str(row.cluster) if row.cluster >= 0 else "-"
    mark = "yes" if row.kept else ""
    return [row.name, mark, label, *figures(row._asdict()), row.why]


def _scrolled(label: str, header: Sequence[str], lines: list[tuple[list, str]]) -> str:
    """Write a table in a box of its own, without the columns that hold nothing."""
    columns = [
        c
        for c in zip(header, *(cells for cells, _ in lines), strict=True)
        if any(c[1:])
    ]
    header, *body = zip(*columns, strict=True)
    numeric = [name in (*FIGURES, "cluster") for name in header]
    box = Element(
        "div",
        {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": label},
    )
    if len(header) < 6:
        box.set("class", "scroll short")
    table = SubElement(box, "table")
    _row(SubElement(table, "thead"), header, numeric)
    rows = SubElement(table, "tbody")
    for cells, (_, kind) in zip(body, lines, strict=True):
        row = _row(rows, cells, numeric)
        if kind:
            row.set("class", kind)
    return _html(box)


def _row(parent: Element, cells: Sequence[str], numeric: list[bool]) -> Element:
    row = SubElement(parent, "tr")
    head = parent.tag == "thead"
    for i, (text, is_number) in enumerate(zip(cells, numeric, strict=True)):
        cell = SubElement(row, "th" if head or i == 0 else "td")
        if cell.tag == "th":
            cell.set("scope", "col" if head else "row")
        if is_number:
            cell.set("class", "number")
        cell.text = text
    return row


def _note(text: str) -> str:
    note = Element("p", {"class": "note"})
    note.text = text
    return _html(note)


def _html(element: Element) -> str:
    return tostring(element, encoding="unicode", method="html")
