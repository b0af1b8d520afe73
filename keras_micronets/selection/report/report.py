"""`SelectionReport`: who was kept, why, and what it is worth."""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

_WIDTH = 100
_MOST_ROWS = 40
FIGURES = ["acc.", "NLL", "ECE", "zeros", "kB", "gzip kB", "ms"]
_HEADER = ["", "learner", "cluster", *FIGURES, "why"]


class LearnerRow(NamedTuple):
    """One learner in a `SelectionReport`; what is not known is `None`.

    The map of a large pool shows the kept learners and some others: those that are not
    on it have no `map_x` and `map_y`.
    """

    index: int
    name: str
    cluster: int
    kept: bool
    why: str
    accuracy: float
    negative_log_likelihood: float
    expected_calibration_error: float
    sparsity: float | None
    n_bytes: int | None
    gzip_bytes: int | None
    map_x: float | None
    map_y: float | None
    milliseconds: float | None = None


@dataclass(frozen=True, repr=False)
class SelectionReport:
    """Who was kept, why, and what it is worth; prints as a table.

    Made by `selection_report`. Everything in it is a plain number, string or `None`.

    Args:
        rows: Tuple of `LearnerRow`, one a learner, in the order of the learners.
        method: String. How the learners were grouped or ranked.
        representative: String or `None`. How members were taken from the clusters.
        n_samples: Integer. Number of samples that the choice was made on.
        disagreement: Float or `None`. Mean share of samples on which two learners
            predict different classes; `None` for a single learner.
        disagreement_kept: The same among the kept.
        ensemble: Dictionary of the ensemble's `accuracy`, `negative_log_likelihood`
            and `expected_calibration_error` on these samples, its `n_bytes`, its
            `gzip_bytes` and its `milliseconds` (sums over the kept, or `None`).
        choice: String, how the method itself was chosen, or `None`. Defaults to
            `None`.
    """

    rows: tuple[LearnerRow, ...]
    method: str
    representative: str | None
    n_samples: int
    disagreement: float | None
    disagreement_kept: float | None
    ensemble: dict[str, Any]
    choice: str | None = None

    @property
    def kept(self) -> tuple[LearnerRow, ...]:
        """The rows of the kept learners."""
        return tuple(row for row in self.rows if row.kept)

    @property
    def on_map(self) -> tuple[LearnerRow, ...]:
        """The rows of the learners that the map shows."""
        return tuple(row for row in self.rows if row.map_x is not None)

    def to_dict(self) -> dict[str, Any]:
        """Give the report as a dictionary that `json.dumps` takes.

        Returns:
            Dictionary of the attributes; `rows` is a list of dictionaries.
        """
        return {**asdict(self), "rows": [row._asdict() for row in self.rows]}

    def __str__(self) -> str:
        choice = ["", self.choice] if self.choice else []
        return "\n".join([*_table(self), "", *_notes(self), *choice])

    __repr__ = __str__


def _table(report: SelectionReport) -> list[str]:
    shown = report.rows if len(report.rows) <= _MOST_ROWS else report.kept
    shown = sorted(shown, key=lambda r: (r.cluster, not r.kept, -r.accuracy, r.index))
    lines = [_HEADER, *map(_cells, shown), _ensemble_cells(report)]
    columns = [column for column in zip(*lines, strict=True) if any(column[1:])]
    room = _WIDTH - sum(max(map(len, c)) + 2 for c in columns if c[0] != "learner")
    texts = [
        "  ".join(cells).rstrip()
        for cells in zip(*(_align(c, room) for c in columns), strict=True)
    ]
    rule = "-" * max(map(len, texts))
    return [texts[0], rule, *texts[1:-1], rule, texts[-1]]


def _cells(row: LearnerRow) -> list[str]:
    mark, label = "*" if row.kept else "", str(row.cluster) if row.cluster >= 0 else "-"
    return [mark, row.name, label, *figures(row._asdict()), row.why]


def _ensemble_cells(report: SelectionReport) -> list[str]:
    return ["*", f"ensemble of {len(report.kept)}", "", *figures(report.ensemble), ""]


def figures(values: dict[str, Any]) -> list[str]:
    """Write the figures of a learner or an ensemble; empty where not known."""
    zeros, milliseconds = values.get("sparsity"), values["milliseconds"]
    return [
        f"{values['accuracy']:.2%}",
        f"{values['negative_log_likelihood']:.3f}",
        f"{values['expected_calibration_error']:.3f}",
        "" if zeros is None else f"{zeros:.0%}",
        *(_kilobytes(values[key]) for key in ("n_bytes", "gzip_bytes")),
        "" if milliseconds is None else f"{milliseconds:.3g}",
    ]


def _kilobytes(n_bytes: int | None) -> str:
    return "" if n_bytes is None else f"{n_bytes / 1000:.1f}"


def _align(column: tuple[str, ...], room: int) -> list[str]:
    if column[0] == "learner":
        column = tuple(shorten(name, max(room, 13)) for name in column)
    width = max(map(len, column))
    words = column[0] in ("", "learner", "why")
    return [text.ljust(width) if words else text.rjust(width) for text in column]


def shorten(name: str, width: int) -> str:
    """Cut out the middle of a name: learners' names differ at both ends."""
    tail = (width - 1) // 2
    return name if len(name) <= width else f"{name[: width - 1 - tail]}…{name[-tail:]}"


def _notes(report: SelectionReport) -> list[str]:
    how = report.method
    if report.representative:
        how += f", representative={report.representative!r}"
    notes = [f"Kept (*) {len(report.kept)} of {len(report.rows)} learners by {how}."]
    if len(report.rows) > _MOST_ROWS:
        notes.append("The others are in `rows`.")
    if report.disagreement is not None:
        note = f"Two learners differ in {report.disagreement:.1%} of their predictions"
        if report.disagreement_kept is not None:
            note += f", two kept ones in {report.disagreement_kept:.1%}"
        notes.append(note + ".")
    return [
        *notes,
        f"Measured on the {report.n_samples} samples used for choosing, which flatters:"
        " judge the ensemble on others.",
    ]
