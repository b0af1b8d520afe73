"""Pictures of a `SelectionReport`: who is like whom, and what a byte buys."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_micronets.selection.cross_validation import METRICS, MemberScores
from keras_micronets.selection.report import drawing as draw
from keras_micronets.selection.report.report import SelectionReport
from keras_micronets.selection.validation import as_labels, check_probabilities

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


if TYPE_CHECKING:
    from matplotlib.figure import Figure

_AXIS = {
    "accuracy": "Accuracy on unseen samples, %",
    "negative_log_likelihood": "NLL on unseen samples",
}
#: The percentiles of the splits between which the band lies.
BAND = (10, 90)


def plot_curves(
    scores: MemberScores, measure: str = "accuracy", ax: Any = None
) -> "Figure":
    """Draw how good the ensemble is against the number of its members.

    Lines are means over the splits, bands reach from their 10th to their 90th
    percentile. A line has a gap where the method could not choose so many.

    Args:
        scores: A `MemberScores`; see `scores_by_members`.
        measure: `"accuracy"` or `"negative_log_likelihood"`. Defaults to
            `"accuracy"`.
        ax: A matplotlib `Axes` to draw on. Defaults to `None`, a new figure.

    Returns:
        The matplotlib `Figure`.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If `measure` is unknown.

    Example:

    ```python
    scores = scores_by_members(probabilities, y, {"top_k": top_k})
    plot_curves(scores, "negative_log_likelihood").savefig("nll.png")
    ```
    """
    if measure not in METRICS:
        raise ValueError(
            f"Expected measure to be one of {sorted(METRICS)}. Received: {measure=}."
        )
    ax = draw.new_axes() if ax is None else ax
    ax.set_title("What another member adds", loc="left")
    draw_curves(ax, scores, measure)
    return ax.figure


def draw_curves(ax: Any, scores: MemberScores, measure: str) -> None:
    """Draw the curves without a title."""
    unit = 100 if measure == "accuracy" else 1
    for i, (name, values) in enumerate(getattr(scores, measure).items()):
        look = {"color": draw.colour(i), "zorder": 3}
        x = scores.n_kept[name].mean(axis=0)
        low, high = np.percentile(unit * values, BAND, axis=0)
        ax.fill_between(x, low, high, alpha=0.13, linewidth=0, color=look["color"])
        ax.plot(x, unit * values.mean(axis=0), label=name, marker="o", ms=3, **look)
    for name, dashes in (("best_learner", "--"), ("mean_of_all", ":")):
        level = unit * getattr(scores, name)[measure].mean()
        label = name.replace("_", " ")
        ax.axhline(level, color=draw.SOFT, linestyle=dashes, lw=1.2, label=label)
    _count_axis(ax, scores.n_members)
    ax.set_ylabel(_AXIS[measure])
    legend(ax)


def plot_reliability(
    predictors: Mapping[str, Any], y: Any, ax: Any = None, *, n_bins: int = 10
) -> "Figure":
    """Draw how often predictors are right against how sure they are.

    On the diagonal a predictor is as often right as it says. Samples are put into bins
    of equal width by the probability of the predicted class; the larger a point, the
    more samples are in its bin.

    Args:
        predictors: Dictionary from a name to probabilities of shape
            `(samples, classes)`.
        y: Labels, sparse or one-hot; see `as_labels`.
        ax: A matplotlib `Axes` to draw on. Defaults to `None`, a new figure.
        n_bins: Integer. Number of bins over `(0, 1]`. Defaults to `10`.

    Returns:
        The matplotlib `Figure`.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If data is bad or `n_bins` is less than one.

    Example:

    ```python
    scaled = apply_temperature(p, fit_temperature(p, y))
    plot_reliability({"before": p, "after": scaled}, y).savefig("reliability.png")
    ```

    Reference: DeGroot & Fienberg, "The Comparison and Evaluation of Forecasters",
    The Statistician, 1983.
    """
    ax = draw.new_axes() if ax is None else ax
    ax.set_title("As sure as right?", loc="left")
    draw_reliability(ax, predictors, y, n_bins)
    return ax.figure


def draw_reliability(
    ax: Any, predictors: Mapping[str, Any], y: Any, n_bins: int = 10
) -> None:
    """Draw the reliability diagram without a title."""
    ax.plot([0, 100], [0, 100], color=draw.NOISE, lw=1, zorder=1)
    for i, (name, probabilities) in enumerate(predictors.items()):
        sure, right, share = reliability(probabilities, y, n_bins)
        look = {"color": draw.colour(i), "zorder": 3}
        ax.plot(100 * sure, 100 * right, lw=1.2, label=name, **look)
        ax.scatter(100 * sure, 100 * right, s=8 + 150 * share, alpha=0.8, **look)
    ax.set_xlabel("Probability of the predicted class, %")
    ax.set_ylabel("Right, % of samples")
    legend(ax)


def reliability(
    probabilities: Any, y: Any, n_bins: int = 10
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Say how often one predictor is right where it is how sure.

    Args:
        probabilities: Array of shape `(samples, classes)`.
        y: Labels, sparse or one-hot; see `as_labels`.
        n_bins: Integer. Number of bins over `(0, 1]`. Defaults to `10`.

    Returns:
        Three float arrays, one value for each bin that has samples: the mean
        confidence, the share of right predictions, the share of all samples. As in
        `expected_calibration_error`, which is their mean gap weighted by the last.

    Raises:
        ValueError: If data is bad or `n_bins` is less than one.
    """
    if n_bins < 1:
        raise ValueError(f"Expected at least one bin. Received: {n_bins=}.")
    p = check_probabilities(np.asarray(probabilities)[None])[0]
    right = p.argmax(axis=1) == as_labels(y, p.shape[1], p.shape[0])
    sure = p.max(axis=1).astype(np.float64)
    inner_edges = np.linspace(0, 1, n_bins + 1)[1:-1]
    bins = np.digitize(sure, inner_edges, right=True)
    counts = np.bincount(bins)
    filled = counts > 0
    counts = counts[filled]
    sums = [np.bincount(bins, weights=values)[filled] for values in (sure, right)]
    return sums[0] / counts, sums[1] / counts, counts / len(right)


def legend(ax: Any) -> None:
    """Write the names of the lines below the axes."""
    from matplotlib.transforms import ScaledTranslation

    ticks_and_label = ScaledTranslation(0, -30 / 72, ax.figure.dpi_scale_trans)
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "borderaxespad": 0}
    place["bbox_transform"] = ax.transAxes + ticks_and_label
    made = ax.legend(ncols=2, frameon=False, fontsize=8.5, labelcolor=draw.INK, **place)
    for text in made.get_texts():
        text.set_parse_math(False)


def _count_axis(ax: Any, counts: np.ndarray) -> None:
    ticks = counts
    if counts.max() > 10:
        ax.set_xscale("log", base=2)
        ticks = 2 ** np.arange(int(np.log2(counts.max())) + 1)
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()
    ax.set_xlabel("Members")
