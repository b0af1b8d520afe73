"""`SelectionReport`: who was kept, why, and what it is worth."""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

_WIDTH = 100
_NAME_WIDTH = 24
_MOST_ROWS = 40


class LearnerRow(NamedTuple):
    """One learner in a `SelectionReport`; what is not known is `None`."""

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
    map_x: float
    map_y: float


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
            and `expected_calibration_error` on these samples, its `n_bytes` and its
            `gzip_bytes` (sums over the kept, or `None`).
    """

    rows: tuple[LearnerRow, ...]
    method: str
    representative: str | None
    n_samples: int
    disagreement: float | None
    disagreement_kept: float | None
    ensemble: dict[str, Any]

    @property
    def kept(self) -> tuple[LearnerRow, ...]:
        """The rows of the kept learners."""
        return tuple(row for row in self.rows if row.kept)

    def to_dict(self) -> dict[str, Any]:
        """Give the report as a dictionary that `json.dumps` takes.

        Returns:
            Dictionary of the attributes; `rows` is a list of dictionaries.
        """
        return {**asdict(self), "rows": [row._asdict() for row in self.rows]}

    def __str__(self) -> str:
        return "\n".join([*_table(self), "", *_notes(self)])

    __repr__ = __str__


def _table(report: SelectionReport) -> list[str]:
    shown = report.rows if len(report.rows) <= _MOST_ROWS else report.kept
    shown = sorted(shown, key=lambda r: (r.cluster, not r.kept, -r.accuracy, r.index))
    cells = [_header(), *map(_cells, shown), _ensemble_cells(report)]
    filled = [i for i in range(len(cells[0])) if any(row[i] for row in cells[1:])]
    widths = {i: max(len(row[i]) for row in cells) for i in filled}
    lines = [_line([(row[i], widths[i], i) for i in filled]) for row in cells]
    rule = "-" * max(map(len, lines))
    return [lines[0], rule, *lines[1:-1], rule, lines[-1]]


def _header() -> list[str]:
    figures = ["accuracy", "NLL", "ECE", "zeros", "kB", "gzip kB"]
    return ["", "learner", "cluster", *figures, "why"]


def _cells(row: LearnerRow) -> list[str]:
    return [
        "*" if row.kept else "",
        _shorten(row.name, _NAME_WIDTH),
        str(row.cluster) if row.cluster >= 0 else "none",
        *_figures(row._asdict()),
        row.why,
    ]


def _ensemble_cells(report: SelectionReport) -> list[str]:
    name = f"ensemble of {len(report.kept)}"
    return ["*", name, "", *_figures({**report.ensemble, "sparsity": None}), ""]


def _figures(values: dict[str, Any]) -> list[str]:
    return [
        f"{values['accuracy']:.2%}",
        f"{values['negative_log_likelihood']:.3f}",
        f"{values['expected_calibration_error']:.3f}",
        "" if values["sparsity"] is None else f"{values['sparsity']:.0%}",
        *(_kilobytes(values[key]) for key in ("n_bytes", "gzip_bytes")),
    ]


def _kilobytes(n_bytes: int | None) -> str:
    return "" if n_bytes is None else f"{n_bytes / 1000:.1f}"


def _line(cells: list[tuple[str, int, int]]) -> str:
    words = {0, 1, len(_header()) - 1}
    parts = [t.ljust(w) if i in words else t.rjust(w) for t, w, i in cells]
    line = "  ".join(parts).rstrip()
    return line if len(line) <= _WIDTH else line[: _WIDTH - 1] + "…"


def _shorten(name: str, width: int) -> str:
    """Cut out the middle: names of learners differ at both ends."""
    tail = (width - 1) // 2
    return name if len(name) <= width else f"{name[: width - 1 - tail]}…{name[-tail:]}"


def _notes(report: SelectionReport) -> list[str]:
    n_kept, n_rows = len(report.kept), len(report.rows)
    how = report.method
    if report.representative:
        how += f", representative={report.representative!r}"
    hidden = n_rows > _MOST_ROWS
    notes = [f"Kept (*) {n_kept} of {n_rows} learners by {how}."]
    notes += ["Only these are shown; `rows` has all."] if hidden else []
    if report.disagreement is not None:
        note = "Two learners predict different classes for "
        note += f"{report.disagreement:.1%} of the samples on average"
        if report.disagreement_kept is not None:
            note += f", two of the kept for {report.disagreement_kept:.1%}"
        notes.append(note + ".")
    return [
        *notes,
        f"Measured on the {report.n_samples} samples that were used for choosing, "
        "so the figures flatter:",
        "judge the ensemble on other data.",
    ]
