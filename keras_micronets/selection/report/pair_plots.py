"""Plots of the disagreement of learners: a tree and a matrix; see also `plots`."""

from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform
from sklearn.isotonic import isotonic_regression

from keras_micronets.selection.report import drawing
from keras_micronets.selection.report.report import LearnerRow, SelectionReport, shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_dendrogram", "plot_disagreement"]

_MAX_LEAVES, _MAX_NAMED = 40, 14
# In points: a line of text, the gap before it, and the length of its leader.
_LINE, _GAP, _LEADER = 10.5, 4, 14


def plot_dendrogram(
    report: SelectionReport, disagreements: Any, ax: Any = None
) -> "Figure":
    """Draw the average-linkage tree of the learners' disagreement.

    Two branches meet at the mean share of samples on which their learners predict
    different classes. Leaves have the colours of the clusters; kept learners are ringed
    and named, and in a small pool the others are named too. Of more than 40 learners
    the last 40 branches are drawn, with a larger point for more learners.

    Args:
        report: A `SelectionReport`.
        disagreements: Symmetric array of shape `(learners, learners)`, one row for
            each of `report.rows`; see `disagreement`.
        ax: A matplotlib `Axes` to draw on. Defaults to `None`, a new figure.

    Raises:
        ValueError: If `disagreements` has another shape.

    Example:

    ```python
    selection = kmn.selection.cluster(probabilities, y, n_members=4, random_state=0)
    names = [f"learner-{i}" for i in range(len(probabilities))]
    report = kmn.selection.selection_report(probabilities, y, selection, names=names)
    distances = kmn.selection.disagreement(probabilities)
    plot_dendrogram(report, distances).savefig("tree.png")
    plot_disagreement(report, distances).savefig("matrix.png")
    ```

    Reference: Sokal & Michener, "A Statistical Method for Evaluating Systematic
    Relationships", Univ. Kansas Sci. Bull., 1958 (average linkage).
    """
    distances = _checked(report, disagreements)
    ax = drawing.with_title(ax, "Disagreement as a tree")
    draw_dendrogram(ax, report, distances)
    return ax.figure


def draw_dendrogram(ax: Any, report: SelectionReport, distances: np.ndarray) -> None:
    """Draw the tree of `plot_dendrogram` without a title."""
    tree = _tree(distances)
    leaves = _leaves(tree, report.rows)
    _draw_branches(ax, tree)
    for index, rows in enumerate(leaves):
        _draw_leaf(ax, index, rows, size=4 if len(leaves) <= _MAX_LEAVES / 2 else 3)
    top = 100 * tree[:, 2].max(initial=0) or 1
    ax.set_xlim(1.05 * top, -0.05 * top)
    ax.set_ylim(len(leaves) - 0.3, -0.7)
    ax.set_yticks([])
    ax.set_xlabel(drawing.distance_label(report))
    ax.grid(visible=False, axis="y")
    texts = [_name(rows, everyone=len(leaves) <= _MAX_NAMED) for rows in leaves]
    _label_rows(ax, {index: text for index, text in enumerate(texts) if text})


def plot_disagreement(
    report: SelectionReport, disagreements: Any, ax: Any = None
) -> "Figure":
    """Draw the disagreement of all pairs of learners as a matrix, ordered by cluster.

    Learners of a cluster are adjacent, those that agree most next to each other; bars
    in the margins have the colours of the clusters. Kept learners are named. Darker
    cells disagree more; the scale begins at the pair that agrees most.

    Args:
        report, disagreements, ax: See `plot_dendrogram`, also for an example.
    """
    distances = _checked(report, disagreements)
    ax = drawing.with_title(ax, "Disagreement of all pairs", pad=12)
    draw_disagreement(ax, report, distances)
    return ax.figure


def draw_disagreement(ax: Any, report: SelectionReport, distances: np.ndarray) -> None:
    """Draw the matrix of `plot_disagreement` without a title."""
    order = _matrix_order(report, distances)
    rows = [report.rows[i] for i in order]
    shares = 100 * distances[np.ix_(order, order)]
    np.fill_diagonal(shares, np.nan)
    image = ax.imshow(shares, cmap="Blues", interpolation="none")
    if len(rows) == 1 or not np.nanmax(shares):
        image.set_clim(0, 100)
    ax.grid(visible=False)
    ax.set_xticks([])
    ax.set_yticks([])
    _draw_cluster_bars(ax, [row.cluster for row in rows])
    bar = ax.figure.colorbar(image, ax=ax, location="bottom", aspect=30, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8.5, labelcolor=drawing.SOFT)
    bar.set_label(drawing.distance_label(report), fontsize=9, color=drawing.INK)
    _label_rows(ax, {i: _name([row]) for i, row in enumerate(rows) if row.kept})


def spread(wanted: np.ndarray, gap: float, height: float) -> np.ndarray:
    """Move positions apart as little as possible, to a distance of at least `gap`.

    Args:
        wanted: Increasing floats in `[0, height]`.
        gap: Float, the smallest distance of two positions.
        height: Float. Positions stay at least half a gap from zero and from `height`.

    Returns:
        Floats of the same shape: the least-squares solution, isotonic regression of the
        wanted positions minus their gaps, plus the gaps.
    """
    gaps = gap * np.arange(len(wanted))
    low, high = gap / 2, max(height - gap / 2 - gaps[-1], gap / 2)
    return isotonic_regression(wanted - gaps, y_min=low, y_max=high) + gaps


def _checked(report: SelectionReport, disagreements: Any) -> np.ndarray:
    distances = np.asarray(disagreements, np.float64)
    expected = (len(report.rows), len(report.rows))
    if distances.shape != expected:
        raise ValueError(
            f"Expected disagreements of shape {expected}, as the report has "
            f"{expected[0]} learners. Received: shape {distances.shape}."
        )
    return distances


def _matrix_order(report: SelectionReport, distances: np.ndarray) -> np.ndarray:
    """Order learners by cluster, noise last, and by the tree within a cluster."""
    tree = _tree(distances)
    leaves = hierarchy.leaves_list(tree) if len(tree) else np.arange(len(distances))
    clusters = np.array([row.cluster for row in report.rows])
    clusters = np.where(clusters < 0, clusters.max() + 1, clusters)
    return leaves[np.argsort(clusters[leaves], kind="stable")]


def _tree(distances: np.ndarray) -> np.ndarray:
    if len(distances) < 2:
        return np.empty((0, 4))
    return hierarchy.linkage(squareform(distances, checks=False), "average")


def _leaves(tree: np.ndarray, rows: tuple[LearnerRow, ...]) -> list[list[LearnerRow]]:
    """Return the learners of each leaf, from top to bottom."""
    if not len(tree):
        return [[rows[0]]]
    nodes: Any = hierarchy.to_tree(tree, rd=True)
    leaves = _layout(tree)["leaves"]
    return [[rows[i] for i in nodes[1][leaf].pre_order()] for leaf in leaves]


def _layout(tree: np.ndarray) -> dict[str, Any]:
    truncate = "lastp" if len(tree) + 1 > _MAX_LEAVES else None
    return hierarchy.dendrogram(tree, _MAX_LEAVES, truncate, no_plot=True)


def _draw_branches(ax: Any, tree: np.ndarray) -> None:
    if not len(tree):
        return
    layout = _layout(tree)
    for heights, positions in zip(layout["dcoord"], layout["icoord"], strict=True):
        # SciPy puts leaves at 5, 15, 25 and so on.
        x, y = 100 * np.array(heights), (np.array(positions) - 5) / 10
        ax.plot(x, y, color=drawing.NOISE, linewidth=1, zorder=2)


def _draw_leaf(ax: Any, index: int, rows: list[LearnerRow], size: float) -> None:
    size += np.sqrt(len(rows) - 1) / 2
    ((cluster, _),) = Counter(row.cluster for row in rows).most_common(1)
    style = {"clip_on": False, "zorder": 3}
    fill = {"color": drawing.colour(cluster), "linewidths": 0}
    ax.scatter(0, index, s=size**2, **fill, **style)
    if any(row.kept for row in rows):
        ring = {"facecolors": "none", "edgecolors": drawing.INK, "linewidths": 1}
        ax.scatter(0, index, s=(size + 3) ** 2, **ring, **style)


def _draw_cluster_bars(ax: Any, clusters: list[int]) -> None:
    """Draw a bar for each run of rows of one cluster, to the left and on top."""
    style: dict[str, Any] = {"linewidth": 3, "solid_capstyle": "butt", "clip_on": False}
    start = -0.5
    for cluster, run in groupby(clusters):
        ends = [start, start + len(list(run))]
        style["color"] = drawing.colour(cluster)
        ax.plot([-0.02] * 2, ends, transform=ax.get_yaxis_transform(), **style)
        ax.plot(ends, [1.02] * 2, transform=ax.get_xaxis_transform(), **style)
        start = ends[1]


def _name(rows: list[LearnerRow], *, everyone: bool = False) -> str:
    named = [row for row in rows if row.kept] or (rows if everyone else [])
    if not named:
        return ""
    rest = f" + {len(rows) - 1}" if len(rows) > 1 else ""
    return shorten(named[0].name, 20) + rest


def _label_rows(ax: Any, texts: dict[int, str]) -> None:
    """Write texts to the right of rows, moved apart where they would touch.

    The lowest texts are omitted if there is no space for all.
    """
    notes = {row: _note(ax, row, texts[row]) for row in sorted(texts)}
    ax.figure.canvas.figure.draw_without_rendering()  # the names shrink the axes
    points_per_row = _points_per_row(ax)
    height = points_per_row * abs(np.ptp(ax.get_ylim()))
    n_lines = max(1, int(height // _LINE))
    for row in list(notes)[n_lines:]:
        notes.pop(row).remove()
    if not notes:
        return
    wanted = (np.array(list(notes)) - min(ax.get_ylim())) * points_per_row
    shifts = wanted - spread(wanted, _LINE, height)
    for note, shift in zip(notes.values(), shifts, strict=True):
        note.set_position((_GAP + _LEADER, shift))


def _note(ax: Any, row: int, text: str) -> Any:
    line = {"arrowstyle": "-", "color": drawing.NOISE, "lw": 0.7, "relpos": (0, 0.5)}
    return ax.annotate(
        text,
        xy=(1, row),
        xycoords=ax.get_yaxis_transform(),
        xytext=(_GAP + _LEADER, 0),
        textcoords="offset points",
        annotation_clip=False,
        arrowprops={**line, "shrinkA": 0, "shrinkB": _GAP},
        verticalalignment="center",
        fontsize=8.5,
        color=drawing.INK,
        parse_math=False,
    )


def _points_per_row(ax: Any) -> float:
    pixels = np.ptp(ax.transData.transform([(0, 0), (0, 1)])[:, 1])
    return float(pixels * 72 / ax.figure.dpi)
