"""`SelectionReport`: the learners, which of them are kept and why, and the scores."""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from keras_micronets.edge.tasks import SpreadScale

__all__ = ["LearnerRow", "SelectionReport"]

_WIDTH = 100
_MAX_ROWS = 40
#: Column and format of each score: of classes, and of numbers.
SCORES = {
    "accuracy": ("acc.", "{:.2%}"),
    "negative_log_likelihood": ("NLL", "{:.3f}"),
    "expected_calibration_error": ("ECE", "{:.3f}"),
}
NUMBER_SCORES = {
    "r2": ("R²", "{:.4f}"),
    "root_mean_squared_error": ("RMSE", "{:.4g}"),
    "mean_absolute_error": ("MAE", "{:.4g}"),
}
SIZE_COLUMNS = ["zeros", "kB", "gzip kB", "ms"]


class LearnerRow(NamedTuple):
    """One learner in a `SelectionReport`; unknown values are `None`.

    Learners of classes have an accuracy, a negative log-likelihood and an expected
    calibration error, learners of numbers R² and the two errors, in units of the
    targets. The map of a large pool shows the kept learners and a sample of the others;
    all others have no `map_x` and `map_y`.
    """

    index: int
    name: str
    cluster: int
    kept: bool
    why: str
    accuracy: float | None
    negative_log_likelihood: float | None
    expected_calibration_error: float | None
    sparsity: float | None
    n_bytes: int | None
    gzip_bytes: int | None
    map_x: float | None
    map_y: float | None
    milliseconds: float | None = None
    r2: float | None = None
    root_mean_squared_error: float | None = None
    mean_absolute_error: float | None = None

    @property
    def score(self) -> float:
        """The accuracy, or R²: higher is better."""
        return self.ranking[0]

    @property
    def ranking(self) -> tuple[float, float]:
        """The score, and minus the loss: higher is better."""
        if self.accuracy is None:
            return self.r2 or 0.0, -(self.root_mean_squared_error or 0.0)
        return self.accuracy, -(self.negative_log_likelihood or 0.0)


@dataclass(frozen=True, repr=False)
class SelectionReport:
    """The learners, which of them are kept and why, and the scores; prints as a table.

    `selection_report` makes it. It holds numbers, strings and `None` only.

    Args:
        rows: Tuple of `LearnerRow`, in the order of the learners.
        method: String, the name of the selection method.
        representative: String, how members were taken from the clusters, or `None`.
        n_samples: Integer, the number of samples used for the selection.
        disagreement: Float or `None`. Mean share of samples on which two learners
            predict different classes; `None` for a single learner, and for numbers.
        disagreement_kept: The same among the kept learners.
        ensemble: Dictionary of the ensemble's scores on these samples, with the names
            that they have in `LearnerRow`, its `n_bytes`, its `gzip_bytes` and its
            `milliseconds` (sums over the members, or `None`).
        choice: String, how the number of members and the method were chosen, or
            `None`. Defaults to `None`.
        temperature: Float, the temperature of the ensemble's probabilities. Defaults to
            `1.0`, none.
        uncalibrated: Dictionary of the ensemble's metrics without the temperature, or
            `None` if there is none. Defaults to `None`.
        spread_scale: The `edge.SpreadScale` of the ensemble, or `None`. Defaults to
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
    temperature: float = 1.0
    uncalibrated: dict[str, float] | None = None
    spread_scale: SpreadScale | None = None

    @property
    def kept(self) -> tuple[LearnerRow, ...]:
        """The rows of the kept learners."""
        return tuple(row for row in self.rows if row.kept)

    @property
    def has_classes(self) -> bool:
        """Whether the learners predict classes, not numbers."""
        return "accuracy" in self.ensemble

    @property
    def score_name(self) -> str:
        """The name of the score: accuracy or R²."""
        return "Accuracy" if self.has_classes else "R²"

    @property
    def on_map(self) -> tuple[LearnerRow, ...]:
        """The rows of the learners on the map."""
        return tuple(row for row in self.rows if row.map_x is not None)

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes as a dictionary that `json.dumps` accepts."""
        return {**asdict(self), "rows": [row._asdict() for row in self.rows]}

    def __str__(self) -> str:
        choice = ["", self.choice] if self.choice else []
        return "\n".join([*_table(self), "", *_notes(self), *choice])

    __repr__ = __str__


def _table(report: SelectionReport) -> list[str]:
    shown = report.rows if len(report.rows) <= _MAX_ROWS else report.kept
    shown = sorted(shown, key=lambda r: (r.cluster, not r.kept, -r.score, r.index))
    header = ["", "learner", "cluster", *metric_columns(report.ensemble), "why"]
    lines = [header, *map(_cells, shown), _ensemble_cells(report)]
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
    return [mark, row.name, label, *format_metrics(row._asdict()), row.why]


def _ensemble_cells(report: SelectionReport) -> list[str]:
    return [
        "*",
        f"ensemble of {len(report.kept)}",
        "",
        *format_metrics(report.ensemble),
        "",
    ]


def scores_of(values: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Return column and format of the scores of a learner or an ensemble."""
    return SCORES if values.get("accuracy") is not None else NUMBER_SCORES


def metric_columns(values: dict[str, Any]) -> list[str]:
    """Return the columns of the metrics that `format_metrics` returns."""
    return [column for column, _ in scores_of(values).values()] + SIZE_COLUMNS


def format_metrics(values: dict[str, Any]) -> list[str]:
    """Format the metrics of a learner or an ensemble; empty where unknown."""
    zeros, milliseconds = values.get("sparsity"), values["milliseconds"]
    return [
        *(form.format(values[key]) for key, (_, form) in scores_of(values).items()),
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
    """Omit the middle of a long name: learners' names differ at both ends."""
    tail = (width - 1) // 2
    return name if len(name) <= width else f"{name[: width - 1 - tail]}…{name[-tail:]}"


def _notes(report: SelectionReport) -> list[str]:
    method = report.method
    if report.representative:
        method += f", representative={report.representative!r}"
    notes = [f"Kept (*) {len(report.kept)} of {len(report.rows)} learners by {method}."]
    if len(report.rows) > _MAX_ROWS:
        notes.append("The others are in `rows`.")
    if report.disagreement is not None:
        notes.append(describe_disagreement(report))
    if report.uncalibrated is not None:
        notes.append(describe_temperature(report))
    if report.spread_scale is not None:
        notes.append(describe_spread_scale(report.spread_scale))
    return [
        *notes,
        f"Measured on the {report.n_samples} samples used for selection: optimistic, "
        "evaluate on others.",
    ]


def describe_disagreement(report: SelectionReport) -> str:
    """Return a sentence on the mean disagreement of two learners.

    `report.disagreement` must not be `None`.
    """
    text = f"Two learners differ in {report.disagreement:.1%} of their predictions"
    if report.disagreement_kept is not None:
        text += f", two kept ones in {report.disagreement_kept:.1%}"
    return text + "."


def describe_temperature(report: SelectionReport) -> str:
    """Return a sentence on the temperature, which must not be 1, and its effect."""
    before: Any = report.uncalibrated
    nll, ece = "negative_log_likelihood", "expected_calibration_error"
    return (
        f"A temperature of {report.temperature:.2f} takes the ensemble's NLL from "
        f"{before[nll]:.3f} to {report.ensemble[nll]:.3f} and its ECE from "
        f"{before[ece]:.3f} to {report.ensemble[ece]:.3f}."
    )


def describe_spread_scale(scale: SpreadScale) -> str:
    """Return a sentence on the scale of the members' spread, and its effect."""
    factors, floors = _range(scale.factors), _range(scale.floors)
    return (
        f"Standard deviation of the error: sqrt(({factors} * spread)² + {floors}²), "
        f"whose Gaussian NLL is {scale.gain:.3g} lower than that of the spread itself."
    )


def _range(values: tuple[float, ...]) -> str:
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"[{low} to {high}]"
