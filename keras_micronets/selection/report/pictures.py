"""Pictures of a `SelectionReport`: who is like whom, and what a byte buys."""

from typing import TYPE_CHECKING, Any

from keras_micronets.selection.report import _drawing as draw
from keras_micronets.selection.report.report import SelectionReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_map(report: SelectionReport, ax: Any = None) -> "Figure":
    """Draw the learners as a map: those that predict alike lie close together.

    Colours are clusters. Kept learners are ringed and, where there is room, named; a
    line joins each to those that it stands for. The larger a point, the more accurate
    the learner.

    Args:
        report: A `SelectionReport`.
        ax: A matplotlib `Axes` to draw on. Defaults to `None`, a new figure.

    Returns:
        The matplotlib `Figure`.

    Raises:
        ImportError: If matplotlib is not installed.

    Example:

    ```python
    plot_map(report).savefig("map.png")
    ```
    """
    ax = draw.new_axes() if ax is None else ax
    ax.set_title("Learners by what they predict", loc="left")
    ax.set_xlabel(
        "Distance between two points ≈ root-mean-square difference of their predicted\n"
        f"probabilities. Larger: more accurate. {_key_to_marks(report)}"
    )
    draw_map(ax, report)
    return ax.figure


def draw_map(ax: Any, report: SelectionReport) -> None:
    """Draw the map without words around it."""
    points = {row.index: (row.map_x, row.map_y) for row in report.on_map}
    draw.spokes(ax, report, points)
    draw.learners(ax, report, points, sizes=draw.sizes_by_accuracy(report))
    ax.margins(0.12)
    ax.set_aspect("equal", adjustable="datalim")
    draw.label(ax, draw.kept_labels(ax, report, points), points)


def plot_accuracy_bytes(report: SelectionReport, ax: Any = None) -> "Figure":
    """Draw accuracy against file size: all learners, and the ensemble as a star.

    The ensemble stands at the sum of its members' bytes. Sizes after gzip are taken
    where the report has them, otherwise plain ones; learners of unknown size are left
    out.

    Args:
        report: A `SelectionReport` made with `gzip_bytes` or `n_bytes`.
        ax: A matplotlib `Axes` to draw on. Defaults to `None`, a new figure.

    Returns:
        The matplotlib `Figure`.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the report has no sizes.

    Example:

    ```python
    plot_accuracy_bytes(report).savefig("bytes.png")
    ```
    """
    after = " after gzip" if size_key(report) == "gzip_bytes" else ""
    ax = draw.new_axes() if ax is None else ax
    ax.set_title("What the bytes buy", loc="left")
    ax.set_xlabel(
        f"Size{after}, kB; the ensemble: its members together. {_key_to_marks(report)}"
    )
    ax.set_ylabel(f"Accuracy on the {report.n_samples} samples used for choosing, %")
    draw_accuracy_bytes(ax, report)
    return ax.figure


def draw_accuracy_bytes(ax: Any, report: SelectionReport) -> None:
    """Draw accuracy against size without words around it."""
    key = size_key(report)
    points = {
        row.index: (getattr(row, key) / 1000, 100 * row.accuracy)
        for row in report.rows
        if getattr(row, key) is not None
    }
    draw.learners(ax, report, points)
    labels = draw.kept_labels(ax, report, points)
    if report.ensemble[key] is not None:
        star = report.ensemble[key] / 1000, 100 * report.ensemble["accuracy"]
        draw.ensemble(ax, star)
        labels = [draw.ensemble_label(report, star), *labels]
    draw.size_axes(
        ax, [item["xy"][0] for item in labels] + [x for x, _ in points.values()]
    )
    draw.label(ax, labels, points)


def _key_to_marks(report: SelectionReport) -> str:
    clustered = len({row.cluster for row in report.rows}) > 1
    return "Ringed: kept. " + ("Colours: clusters." if clustered else "")


def size_key(report: SelectionReport) -> str:
    """Name the sizes to draw: those known of most learners, if equal after gzip."""

    def n_known(key: str) -> int:
        return sum(getattr(row, key) is not None for row in report.rows)

    key = max(("gzip_bytes", "n_bytes"), key=n_known)
    if n_known(key):
        return key
    raise ValueError(
        "Expected a report with file sizes. Received: one without. "
        "Make it with selection_report(..., gzip_bytes=...)."
    )
