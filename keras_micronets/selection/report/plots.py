"""Plots of a selection: a map, sizes, scores by members, and reliability.

Each `plot_*` function draws on given matplotlib `Axes`, or on a new figure, and returns
the `Figure`; without matplotlib it raises an `ImportError`. The `draw_*` functions draw
the same without a title.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_micronets.selection.cross_validation import METRICS, MemberScores
from keras_micronets.selection.metrics import confidence_bins
from keras_micronets.selection.report import drawing
from keras_micronets.selection.report.report import SelectionReport
from keras_micronets.selection.validation import (
    as_labels,
    check_choice,
    check_probabilities,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_accuracy_bytes", "plot_curves", "plot_map", "plot_reliability"]

_AXIS = {
    "accuracy": "Accuracy on unseen samples, %",
    "negative_log_likelihood": "NLL on unseen samples",
}
_NUMBER_AXIS = {
    "accuracy": "R² on unseen samples, %",
    "negative_log_likelihood": "Scaled squared error on unseen samples",
}
#: The percentiles of the splits between which the band lies.
BAND = (10, 90)


def plot_map(report: SelectionReport, ax: Any = None) -> "Figure":
    """Draw a map of the learners, on which similar predictions are close together.

    Colours are clusters. Kept learners are ringed and, where there is space, named; a
    line connects each to the learners that it represents. Larger points are more
    accurate.

    Args:
        report: A `SelectionReport`.
        ax: A matplotlib `Axes` to draw on. Defaults to `None`, a new figure.

    Example:

    ```python
    selection = kmn.selection.cluster(probabilities, y, n_members=4, random_state=0)
    names = [f"learner-{i}" for i in range(len(probabilities))]
    report = kmn.selection.selection_report(probabilities, y, selection, names=names)
    plot_map(report).savefig("map.png")
    ```
    """
    ax = drawing.with_title(ax, "Learners by what they predict")
    ax.set_xlabel(
        "Distance between two points ≈ root-mean-square difference of their predicted\n"
        f"probabilities. Larger: more accurate. {_describe_marks(report)}"
    )
    draw_map(ax, report)
    return ax.figure


def draw_map(ax: Any, report: SelectionReport) -> None:
    """Draw the map of `plot_map` without a title."""
    points: Any = {row.index: (row.map_x, row.map_y) for row in report.on_map}
    drawing.draw_spokes(ax, report, points)
    sizes = drawing.sizes_by_accuracy(report)
    drawing.draw_learners(ax, report, points, sizes=sizes)
    ax.margins(0.12)
    ax.set_aspect("equal", adjustable="datalim")
    drawing.label(ax, drawing.kept_labels(ax, report, points), points)


def plot_accuracy_bytes(report: SelectionReport, ax: Any = None) -> "Figure":
    """Draw accuracy against file size: all learners, and the ensemble as a star.

    The size of the ensemble is the sum of its members' bytes. Sizes are those after
    gzip where the report has them, otherwise uncompressed; learners of unknown size are
    omitted.

    Args:
        report: A `SelectionReport` made with `gzip_bytes` or `n_bytes`.
        ax: A matplotlib `Axes` to draw on. Defaults to `None`, a new figure.

    Raises:
        ValueError: If the report has no sizes.

    Example:

    ```python
    selection = kmn.selection.greedy(probabilities, y, n_members=4)
    report = kmn.selection.selection_report(
        probabilities, y, selection, names="abcdefghijkl", n_bytes=[1000] * 12
    )
    plot_accuracy_bytes(report).savefig("bytes.png")
    ```
    """
    suffix = " after gzip" if size_key(report) == "gzip_bytes" else ""
    ax = drawing.with_title(ax, f"{report.score_name} by size")
    ax.set_xlabel(
        f"Size{suffix}, kB; the ensemble: sum of its members. {_describe_marks(report)}"
    )
    ax.set_ylabel(
        f"{report.score_name} on the {report.n_samples} samples used for selection, %"
    )
    draw_accuracy_bytes(ax, report)
    return ax.figure


def draw_accuracy_bytes(ax: Any, report: SelectionReport) -> None:
    """Draw accuracy against size without a title and axis labels."""
    key = size_key(report)
    points = {
        row.index: (getattr(row, key) / 1000, 100 * row.score)
        for row in report.rows
        if getattr(row, key) is not None
    }
    drawing.draw_learners(ax, report, points)
    labels = drawing.kept_labels(ax, report, points)
    if report.ensemble[key] is not None:
        star = (
            report.ensemble[key] / 1000,
            100 * report.ensemble["accuracy" if report.has_classes else "r2"],
        )
        drawing.draw_ensemble(ax, star)
        labels = [drawing.ensemble_label(report, star), *labels]
    sizes = [item["xy"][0] for item in labels] + [x for x, _ in points.values()]
    drawing.scale_size_axes(ax, sizes)
    drawing.label(ax, labels, points)


def size_key(report: SelectionReport) -> str:
    """Return which sizes to draw: those known of most learners, if equal after gzip."""

    def n_known(key: str) -> int:
        return sum(getattr(row, key) is not None for row in report.rows)

    key = max(("gzip_bytes", "n_bytes"), key=n_known)
    if n_known(key):
        return key
    raise ValueError(
        "Expected a report with file sizes. Received: one without. "
        "Make it with selection_report(..., gzip_bytes=...)."
    )


def plot_curves(
    scores: MemberScores, metric: str = "accuracy", ax: Any = None
) -> "Figure":
    """Draw the score of the ensemble against the number of its members.

    Lines are means over the splits, bands reach from their 10th to their 90th
    percentile. A line has a gap where the method failed.

    Args:
        scores: A `MemberScores`; see `scores_by_members`.
        metric: `"accuracy"` or `"negative_log_likelihood"`. Defaults to `"accuracy"`.
        ax: A matplotlib `Axes` to draw on. Defaults to `None`, a new figure.

    Raises:
        ValueError: If `metric` is unknown.

    Example:

    ```python
    methods = {"top_k": kmn.selection.top_k}
    scores = kmn.selection.scores_by_members(probabilities, y, methods)
    plot_curves(scores, "negative_log_likelihood").savefig("nll.png")
    ```
    """
    check_choice("metric", metric, METRICS)
    ax = drawing.with_title(ax, "Score by number of members")
    draw_curves(ax, scores, metric)
    return ax.figure


def draw_curves(ax: Any, scores: MemberScores, metric: str) -> None:
    """Draw the curves of `plot_curves` without a title."""
    unit = 100 if metric == "accuracy" else 1
    for i, (name, values) in enumerate(getattr(scores, metric).items()):
        style: Any = {"color": drawing.colour(i), "zorder": 3}
        x = scores.n_kept[name].mean(axis=0)
        low, high = np.percentile(unit * values, BAND, axis=0)
        ax.fill_between(x, low, high, alpha=0.13, linewidth=0, color=style["color"])
        ax.plot(x, unit * values.mean(axis=0), label=name, marker="o", ms=3, **style)
    for name, dashes in (("best_learner", "--"), ("mean_of_all", ":")):
        level = unit * getattr(scores, name)[metric].mean()
        label = name.replace("_", " ")
        ax.axhline(level, color=drawing.SOFT, linestyle=dashes, lw=1.2, label=label)
    _scale_member_axis(ax, scores.n_members)
    ax.set_ylabel((_AXIS if scores.has_classes else _NUMBER_AXIS)[metric])
    drawing.legend(ax)


def plot_reliability(
    predictors: Mapping[str, Any], y: Any, ax: Any = None, *, n_bins: int = 10
) -> "Figure":
    """Draw a reliability diagram: the accuracy of predictors against their confidence.

    A calibrated predictor is on the diagonal. Samples are put into bins of equal width
    by the probability of the predicted class; larger points have more samples.

    Args:
        predictors: Dictionary from a name to probabilities of shape
            `(samples, classes)`.
        y: Labels, sparse or one-hot; see `as_labels`.
        ax: A matplotlib `Axes` to draw on. Defaults to `None`, a new figure.
        n_bins: Integer, the number of bins over `(0, 1]`. Defaults to `10`.

    Raises:
        ValueError: If the data is invalid or `n_bins` is less than one.

    Example:

    ```python
    p = probabilities.mean(axis=0)
    scaled = kmn.selection.apply_temperature(p, 0.5)
    plot_reliability({"before": p, "after": scaled}, y).savefig("reliability.png")
    ```

    Reference: DeGroot & Fienberg, "The Comparison and Evaluation of Forecasters",
    The Statistician, 1983.
    """
    ax = drawing.with_title(ax, "Reliability")
    draw_reliability(ax, predictors, y, n_bins)
    return ax.figure


def draw_reliability(
    ax: Any, predictors: Mapping[str, Any], y: Any, n_bins: int = 10
) -> None:
    """Draw the reliability diagram without a title."""
    ax.plot([0, 100], [0, 100], color=drawing.NOISE, lw=1, zorder=1)
    for i, (name, probabilities) in enumerate(predictors.items()):
        confidence, accuracy, share = reliability(probabilities, y, n_bins)
        x, y_, sizes = 100 * confidence, 100 * accuracy, 8 + 150 * share
        style: Any = {"color": drawing.colour(i), "zorder": 3}
        ax.plot(x, y_, lw=1.2, label=name, **style)
        ax.scatter(x, y_, s=sizes, alpha=0.8, **style)
    ax.set_xlabel("Confidence: probability of the predicted class, %")
    ax.set_ylabel("Accuracy, %")
    drawing.legend(ax)


def reliability(
    probabilities: Any, y: Any, n_bins: int = 10
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the accuracy of one predictor by its confidence.

    Args:
        probabilities: Array of shape `(samples, classes)`.
        y: Labels, sparse or one-hot; see `as_labels`.
        n_bins: Integer, the number of bins over `(0, 1]`. Defaults to `10`.

    Returns:
        Three float arrays with a value for each bin that has samples: the mean
        confidence, the accuracy, the share of all samples. The mean gap of the first
        two, weighted by the third, is `expected_calibration_error`.
    """
    p = check_probabilities(np.asarray(probabilities)[None])[0]
    right = p.argmax(axis=1) == as_labels(y, p.shape[1], p.shape[0])
    bins, confidence = confidence_bins(p, n_bins)
    counts = np.bincount(bins)
    filled = counts > 0
    counts = counts[filled]
    sums = [np.bincount(bins, weights=v)[filled] for v in (confidence, right)]
    return sums[0] / counts, sums[1] / counts, counts / len(right)


def _describe_marks(report: SelectionReport) -> str:
    clustered = len({row.cluster for row in report.rows}) > 1
    return "Ringed: kept. " + ("Colours: clusters." if clustered else "")


def _scale_member_axis(ax: Any, counts: np.ndarray) -> None:
    ticks = counts
    if counts.max() > 10:
        ax.set_xscale("log", base=2)
        ticks = 2 ** np.arange(int(np.log2(counts.max())) + 1)
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()
    ax.set_xlabel("Members")
