"""Pictures of how far learners disagree: as a tree, and as a matrix."""

from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform
from sklearn.isotonic import isotonic_regression

from keras_micronets.selection.report import drawing as draw
from keras_micronets.selection.report.report import LearnerRow, SelectionReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_LEAVES, _MOST_NAMED = 40, 14


def plot_dendrogram(
    report: SelectionReport, disagreements: Any, ax: Any = None
) -> "Figure":
    """Draw which learners disagree least, as a tree of average linkage.

    Two branches meet at the mean share of samples on which their learners predict
    different classes. Leaves are coloured by cluster; kept learners are ringed and
    named, and in a small pool the others are named too. Of more than 40 learners the
    last 40 branches are drawn, the largest point for the most learners.

    Args:
        report: A `SelectionReport`.
        disagreements: Symmetric array of shape `(learners, learners)`, one row for
            each of `report.rows`; see `disagreement`.
        ax: A matplotlib `Axes` to draw on. Defaults to `None`, a new figure.

    Returns:
        The matplotlib `Figure`.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If `disagreements` has another shape.

    Example:

    ```python
    plot_dendrogram(report, disagreement(probabilities)).savefig("tree.png")
    ```

    Reference: Sokal & Michener, "A Statistical Method for Evaluating Systematic
    Relationships", Univ. Kansas Sci. Bull., 1958 (average linkage).
    """
    distances = _checked(report, disagreements)
    ax = draw.new_axes() if ax is None else ax
    ax.set_title("Who disagrees least", loc="left")
    draw_dendrogram(ax, report, distances)
    return ax.figure


def draw_dendrogram(ax: Any, report: SelectionReport, distances: np.ndarray) -> None:
    """Draw the tree without words around it."""
    tree = _tree(distances)
    leaves = _leaves(tree, report.rows)
    _branches(ax, tree)
    for place, rows in enumerate(leaves):
        _leaf(ax, place, rows, size=4 if len(leaves) <= _MOST_LEAVES / 2 else 3)
    top = 100 * tree[:, 2].max(initial=0) or 1
    ax.set_xlim(1.05 * top, -0.05 * top)
    ax.set_ylim(len(leaves) - 0.3, -0.7)
    ax.set_yticks([])
    ax.set_xlabel("Disagreement, % of samples")
    ax.grid(visible=False, axis="y")
    texts = [_name(rows, everyone=len(leaves) <= _MOST_NAMED) for rows in leaves]
    label_rows(ax, {index: text for index, text in enumerate(texts) if text})


def plot_disagreement(
    report: SelectionReport, disagreements: Any, ax: Any = None
) -> "Figure":
    """Draw how far every two learners disagree, as a matrix ordered by cluster.

    Learners of a cluster lie side by side, those that agree most next to each other;
    bars in the margins have the colours of the clusters. Kept learners are named. The
    darker, the more they disagree; the scale begins at the pair that agrees most.

    Args:
        report: A `SelectionReport`.
        disagreements: Symmetric array of shape `(learners, learners)`, one row for
            each of `report.rows`; see `disagreement`.
        ax: A matplotlib `Axes` to draw on. Defaults to `None`, a new figure.

    Returns:
        The matplotlib `Figure`.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If `disagreements` has another shape.

    Example:

    ```python
    plot_disagreement(report, disagreement(probabilities)).savefig("matrix.png")
    ```
    """
    distances = _checked(report, disagreements)
    ax = draw.new_axes() if ax is None else ax
    ax.set_title("Who disagrees with whom", loc="left", pad=12)
    draw_disagreement(ax, report, distances)
    return ax.figure


def draw_disagreement(ax: Any, report: SelectionReport, distances: np.ndarray) -> None:
    """Draw the matrix without words around it."""
    order = matrix_order(report, distances)
    rows = [report.rows[i] for i in order]
    shares = 100 * distances[np.ix_(order, order)]
    np.fill_diagonal(shares, np.nan)
    image = ax.imshow(shares, cmap="Blues", interpolation="none")
    if len(rows) == 1 or not np.nanmax(shares):
        image.set_clim(0, 100)
    ax.grid(visible=False)
    ax.set_xticks([])
    ax.set_yticks([])
    cluster_bars(ax, [row.cluster for row in rows])
    bar = ax.figure.colorbar(image, ax=ax, location="bottom", aspect=30, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8.5, labelcolor=draw.SOFT)
    bar.set_label("Disagreement, % of samples", fontsize=9, color=draw.INK)
    label_rows(ax, {i: _name([row]) for i, row in enumerate(rows) if row.kept})


def matrix_order(report: SelectionReport, distances: np.ndarray) -> np.ndarray:
    """Order learners by cluster, noise last, and within by the tree."""
    tree = _tree(distances)
    leaves = hierarchy.leaves_list(tree) if len(tree) else np.arange(len(distances))
    clusters = np.array([row.cluster for row in report.rows])
    clusters = np.where(clusters < 0, clusters.max() + 1, clusters)
    return leaves[np.argsort(clusters[leaves], kind="stable")]


def _checked(report: SelectionReport, disagreements: Any) -> np.ndarray:
    distances = np.asarray(disagreements, np.float64)
    expected = (len(report.rows), len(report.rows))
    if distances.shape != expected:
        raise ValueError(
            f"Expected disagreements of shape {expected}, as the report has "
            f"{expected[0]} learners. Received: shape {distances.shape}."
        )
    return distances


def _tree(distances: np.ndarray) -> np.ndarray:
    if len(distances) < 2:
        return np.empty((0, 4))
    return hierarchy.linkage(squareform(distances, checks=False), "average")


def _leaves(tree: np.ndarray, rows: tuple[LearnerRow, ...]) -> list[list[LearnerRow]]:
    """Give the learners of each leaf, from top to bottom."""
    if not len(tree):
        return [[rows[0]]]
    nodes = hierarchy.to_tree(tree, rd=True)[1]
    return [
        [rows[i] for i in nodes[leaf].pre_order()] for leaf in _drawn(tree)["leaves"]
    ]


def _drawn(tree: np.ndarray) -> dict[str, Any]:
    cut = "lastp" if len(tree) + 1 > _MOST_LEAVES else None
    return hierarchy.dendrogram(tree, _MOST_LEAVES, cut, no_plot=True)


def _branches(ax: Any, tree: np.ndarray) -> None:
    if not len(tree):
        return
    drawn = _drawn(tree)
    for heights, places in zip(drawn["dcoord"], drawn["icoord"], strict=True):
        # SciPy puts leaves at 5, 15, 25 and so on.
        x, y = 100 * np.array(heights), (np.array(places) - 5) / 10
        ax.plot(x, y, color=draw.NOISE, linewidth=1, zorder=2)


def _leaf(ax: Any, place: int, rows: list[LearnerRow], size: float) -> None:
    size += np.sqrt(len(rows) - 1) / 2
    ((cluster, _),) = Counter(row.cluster for row in rows).most_common(1)
    mark = {"clip_on": False, "zorder": 3}
    fill = {"color": draw.colour(cluster), "linewidths": 0}
    ax.scatter(0, place, s=size**2, **fill, **mark)
    if any(row.kept for row in rows):
        ring = {"facecolors": "none", "edgecolors": draw.INK, "linewidths": 1}
        ax.scatter(0, place, s=(size + 3) ** 2, **ring, **mark)


def _name(rows: list[LearnerRow], *, everyone: bool = False) -> str:
    named = [row for row in rows if row.kept] or (rows if everyone else [])
    if not named:
        return ""
    rest = f" + {len(rows) - 1}" if len(rows) > 1 else ""
    return draw.shorten(named[0].name, 20) + rest


_LINE, _GAP, _REACH = 10.5, 4, 14  # points: a line of text, and the leader's parts


def label_rows(ax: Any, texts: dict[int, str]) -> None:
    """Write names to the right of rows, moved apart where they would touch.

    Of names for which there is no room, the lower ones are left out.
    """
    notes = {row: _note(ax, row, texts[row]) for row in sorted(texts)}
    ax.figure.canvas.figure.draw_without_rendering()  # what names leave of the axes
    points_per_row = _points_per_row(ax)
    height = points_per_row * abs(np.ptp(ax.get_ylim()))
    n_lines = max(1, int(height // _LINE))
    for row in list(notes)[n_lines:]:
        notes.pop(row).remove()
    if not notes:
        return
    wanted = (np.array(list(notes)) - min(ax.get_ylim())) * points_per_row
    for note, shift in zip(
        notes.values(), wanted - spread(wanted, _LINE, height), strict=True
    ):
        note.set_position((_GAP + _REACH, shift))


def spread(wanted: np.ndarray, gap: float, height: float) -> np.ndarray:
    """Move places apart as little as can be, so that none is closer than `gap`.

    Args:
        wanted: Increasing floats in `[0, height]`.
        gap: Float, the least distance of two places.
        height: Float. The places stay between half a gap and `height` less that.

    Returns:
        Floats of the same shape. Least squares: the wanted places less their gaps,
        made not to fall (isotonic regression), and the gaps again.
    """
    gaps = gap * np.arange(len(wanted))
    low, high = gap / 2, max(height - gap / 2 - gaps[-1], gap / 2)
    return isotonic_regression(wanted - gaps, y_min=low, y_max=high) + gaps


def cluster_bars(ax: Any, clusters: list[int]) -> None:
    """Draw a bar for each run of rows of one cluster, to the left and on top."""
    look = {"linewidth": 3, "solid_capstyle": "butt", "clip_on": False}
    start = -0.5
    for cluster, run in groupby(clusters):
        ends = [start, start + len(list(run))]
        look["color"] = draw.colour(cluster)
        ax.plot([-0.02] * 2, ends, transform=ax.get_yaxis_transform(), **look)
        ax.plot(ends, [1.02] * 2, transform=ax.get_xaxis_transform(), **look)
        start = ends[1]


def _note(ax: Any, row: int, text: str) -> Any:
    line = {"arrowstyle": "-", "color": draw.NOISE, "lw": 0.7, "relpos": (0, 0.5)}
    return ax.annotate(
        text,
        xy=(1, row),
        xycoords=ax.get_yaxis_transform(),
        xytext=(_GAP + _REACH, 0),
        textcoords="offset points",
        annotation_clip=False,
        arrowprops={**line, "shrinkA": 0, "shrinkB": _GAP},
        verticalalignment="center",
        fontsize=8.5,
        color=draw.INK,
        parse_math=False,
    )


def _points_per_row(ax: Any) -> float:
    pixels = np.ptp(ax.transData.transform([(0, 0), (0, 1)])[:, 1])
    return float(pixels * 72 / ax.figure.dpi)
