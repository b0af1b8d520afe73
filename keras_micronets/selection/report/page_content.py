"""The sentences and tables of the report page, and the methods it compares."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

from keras_micronets.selection.methods import METHODS
from keras_micronets.selection.report.report import (
    NUMBER_SCORES,
    SCORES,
    SIZE_COLUMNS,
    LearnerRow,
    SelectionReport,
    describe_disagreement,
    describe_spread_scale,
    describe_temperature,
    format_metrics,
    metric_columns,
)
from keras_micronets.selection.selection import Selection

__all__ = [
    "compared_methods",
    "compared_predictors",
    "comparison_table",
    "learner_table",
    "size_table",
    "summary",
    "title",
]

_MAX_ROWS = 200
_BASELINES = ("greedy", "top_k", "random_k")
_GLOSSARY = (
    "acc.: accuracy. NLL: negative log-likelihood in nats, lower is better. ECE: "
    "expected calibration error, the gap between confidence and accuracy, lower is "
    "better. why: the rank by accuracy, within the cluster if there are clusters."
)
_NUMBER_GLOSSARY = (
    "R²: share of the variance of the targets that is explained, 1 for a perfect "
    "prediction, 0 for their mean. RMSE, MAE: root mean squared and mean absolute "
    "error, in units of the targets. why: the rank by R², within the cluster if there "
    "are clusters."
)
_N_SCORES = 3
_SIZES = slice(_N_SCORES + SIZE_COLUMNS.index("kB"), None)
_NUMERIC = {
    "cluster",
    *SIZE_COLUMNS,
    *(column for column, _ in (SCORES | NUMBER_SCORES).values()),
}


def compared_methods(selection: Selection) -> dict[str, Callable[..., Selection]]:
    """Return the method of a selection, if it is in `METHODS`, and baselines."""
    methods = _method_of(selection)
    return methods | {name: METHODS[name] for name in _BASELINES if name not in methods}


def _method_of(selection: Selection) -> dict[str, Callable[..., Selection]]:
    if selection.choice is not None:
        name = selection.choice.method
        return {name: METHODS[name]} if name in METHODS else {}
    if selection.method == "KMeans":
        method = partial(METHODS["cluster"], representative=selection.representative)
        return {"cluster": method}
    name, _, option = selection.method.partition(" by ")
    if name not in METHODS:
        return {}
    options = {"by" if name == "top_k" else "loss": option} if option else {}
    return {selection.method: partial(METHODS[name], **options)}


def title(report: SelectionReport) -> str:
    """Return the title: how many learners are kept."""
    return f"{_count_kept(report)} kept"


def summary(report: SelectionReport, mean_of_all: dict[str, float]) -> str:
    """Return a paragraph on the selection and its scores."""
    predictors = compared_predictors(report, mean_of_all).values()
    ensemble, best, mean = map(_format_scores, predictors)
    method = report.method
    if report.representative:
        method += f" (representative: {report.representative})"
    score = "accuracy" if report.has_classes else "R²"
    verb = "is" if len(report.kept) == 1 else "are"
    text = (
        f"{_count_kept(report)} {verb} kept, selected by {method} on "
        f"{_count(report.n_samples, 'sample')}. On these samples the ensemble has an "
        f"{score} of {ensemble}, the best single learner {best}, and the mean of all "
        f"learners {mean}. "
    )
    if report.disagreement is not None:
        text += describe_disagreement(report) + " "
    if report.uncalibrated is not None:
        text += describe_temperature(report) + " "
    if report.spread_scale is not None:
        text += describe_spread_scale(report.spread_scale) + " "
    return text + (
        "Scores on the samples used for selection are optimistic: evaluate the "
        "ensemble on other samples."
    )


def compared_predictors(
    report: SelectionReport, mean_of_all: dict[str, float]
) -> dict[str, dict[str, Any]]:
    """Return the metrics of the ensemble, the best learner and the mean of all."""
    best = max(report.rows, key=lambda row: row.ranking)
    unknown = {"n_bytes": None, "gzip_bytes": None, "milliseconds": None}
    return {
        f"ensemble of {len(report.kept)}": report.ensemble,
        f"best learner, {best.name}": best._asdict(),
        f"mean of all {len(report.rows):,}": {**mean_of_all, **unknown},
    }


def comparison_table(predictors: dict[str, dict[str, Any]]) -> str:
    """Return the table of the metrics of predictors, by name."""
    lines = [
        ([name, *format_metrics(values)[:_N_SCORES]], "")
        for name, values in predictors.items()
    ]
    columns = metric_columns(next(iter(predictors.values())))[:_N_SCORES]
    return _table("The ensemble and its baselines", ["", *columns], lines)


def learner_table(report: SelectionReport) -> str:
    """Return the table of learners: the kept ones first, then the most accurate."""
    rows = sorted(report.rows, key=lambda r: (not r.kept, -r.score, r.index))
    shown = rows[: max(_MAX_ROWS, len(report.kept))]
    lines = [(_cells(row), "kept" if row.kept else "") for row in shown]
    columns = metric_columns(report.ensemble)
    header = ["learner", "kept", "cluster", *columns, "why"]
    glossary = _GLOSSARY if report.has_classes else _NUMBER_GLOSSARY
    note = glossary
    if len(shown) < len(rows):
        note = (
            f"Shown are the {len(report.kept)} kept learners and the most accurate "
            f"others: {len(rows) - len(shown):,} of {len(rows):,} are left out. "
            f"{glossary}"
        )
    return _table("The learners", header, lines) + _note(note)


def size_table(report: SelectionReport) -> str:
    """Return the table of sizes and times of the members; empty if unknown."""
    lines = [
        ([row.name, *format_metrics(row._asdict())[_SIZES]], "") for row in report.kept
    ]
    if not any("".join(cells[1:]) for cells, _ in lines):
        return ""
    lines.append((["together", *format_metrics(report.ensemble)[_SIZES]], "total"))
    columns = metric_columns(report.ensemble)
    heading = Element("h3")
    heading.text = "Size on the device"
    return (
        f'<section class="sizes">{_html(heading)}'
        + _table("Size and time of the members", ["", *columns[_SIZES]], lines)
        + _note(
            "kB: 1,000 bytes of each learner's file, and after gzip. ms: milliseconds "
            "for one sample. Together: the sum, as members run one after the other."
        )
        + "</section>"
    )


def _format_scores(values: dict[str, Any]) -> str:
    if values.get("accuracy") is None:
        return (
            f"{values['r2']:.3f} (RMSE {values['root_mean_squared_error']:.4g}, MAE "
            f"{values['mean_absolute_error']:.4g})"
        )
    return (
        f"{values['accuracy']:.1%} (NLL "
        f"{values['negative_log_likelihood']:.3f}, ECE "
        f"{values['expected_calibration_error']:.3f})"
    )


def _count_kept(report: SelectionReport) -> str:
    return f"{len(report.kept):,} of {_count(len(report.rows), 'learner')}"


def _count(count: int, name: str) -> str:
    return f"{count:,} {name}" + ("s" if count != 1 else "")


def _cells(row: LearnerRow) -> list[str]:
    label = str(row.cluster) if row.cluster >= 0 else "-"
    mark = "yes" if row.kept else ""
    return [row.name, mark, label, *format_metrics(row._asdict()), row.why]


def _table(label: str, header: Sequence[str], lines: list[tuple[list, str]]) -> str:
    """Return a table in a box that scrolls, without empty columns."""
    columns = [
        c
        for c in zip(header, *(cells for cells, _ in lines), strict=True)
        if any(c[1:])
    ]
    header, *body = zip(*columns, strict=True)
    numeric = [name in _NUMERIC for name in header]
    box = Element(
        "div",
        {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": label},
    )
    if len(header) < 6:
        box.set("class", "scroll short")
    table = SubElement(box, "table")
    _row(SubElement(table, "thead"), header, numeric)
    rows = SubElement(table, "tbody")
    for cells, (_, css_class) in zip(body, lines, strict=True):
        row = _row(rows, cells, numeric)
        if css_class:
            row.set("class", css_class)
    return _html(box)


def _row(parent: Element, cells: Sequence[str], numeric: list[bool]) -> Element:
    row = SubElement(parent, "tr")
    in_head = parent.tag == "thead"
    for i, (text, is_number) in enumerate(zip(cells, numeric, strict=True)):
        cell = SubElement(row, "th" if in_head or i == 0 else "td")
        if cell.tag == "th":
            cell.set("scope", "col" if in_head else "row")
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
