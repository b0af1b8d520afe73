"""Elements that the plots share: axes, colours, marks, labels, a legend.

Imports matplotlib only when drawing.
"""

from typing import Any

import numpy as np

from keras_micronets import _figures
from keras_micronets._figures import FAINT, INK
from keras_micronets.selection.report.report import SelectionReport, shorten

__all__ = ["FAINT", "INK", "NOISE", "SOFT", "colour", "label", "legend", "new_axes"]

# Okabe and Ito's colours, which colour-blind readers can distinguish, and three more;
# they repeat after ten clusters.
_COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B8A800"]
_COLOURS += ["#6A3D9A", "#7F5539", "#5C6B73"]
NOISE, SOFT, _STAR = "#9a9a9a", "#555555", "#C1121F"
# Offsets of a label from its mark in points, the best first.
_SIDES = [(1, 0), (-1, 0), (0, 1), (0, -1)]
_CORNERS = [(0.7, 0.7), (-0.7, 0.7), (0.7, -0.7), (-0.7, -0.7)]
_OFFSETS = [(r * x, r * y) for r in (13, 22, 34, 50, 70) for x, y in _SIDES + _CORNERS]
_NO_SPACE = 1000
_ONE_A_CLUSTER = ("accuracy", "loss", "medoid", "farthest")
_Points = dict[int, tuple[float, float]]


def new_axes(width: float = 7.2, height: float = 5.2) -> Any:
    """Return axes with a grid on a new figure, whose size is in inches."""
    ax = _figures.new_axes(width, height)
    ax.grid(color=FAINT, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.tick_params(length=0, labelsize=8.5, labelcolor=SOFT)
    ax.xaxis.label.set(fontsize=9, color=INK)
    ax.yaxis.label.set(fontsize=9, color=INK)
    return ax


def with_title(ax: Any, title: str, **options: Any) -> Any:
    """Return axes, new ones for `None`, with a title."""
    ax = new_axes() if ax is None else ax
    ax.set_title(title, loc="left", **options)
    return ax


def colour(cluster: int) -> str:
    """Return the colour of a cluster; grey for noise, `-1`."""
    return _COLOURS[cluster % len(_COLOURS)] if cluster >= 0 else NOISE


def distance_label(report: SelectionReport) -> str:
    """Return the label of an axis or a scale of distances in percent."""
    if report.has_classes:
        return "Disagreement, % of samples"
    return "Difference, % of the targets' standard deviation"


def sizes_by_accuracy(report: SelectionReport) -> list[float]:
    """Return the areas of the marks on the map, larger for more accurate learners."""
    accuracies = np.array([row.score for row in report.on_map])
    spread = max(float(np.ptp(accuracies)), 1e-9)
    return (30 + 110 * (accuracies - accuracies.min()) / spread).tolist()


def draw_learners(
    ax: Any, report: SelectionReport, points: _Points, sizes: list[float] | None = None
) -> None:
    """Draw learners as marks in the colours of their clusters; ring the kept ones."""
    shown = [row for row in report.rows if row.index in points]
    areas = np.array(sizes or [60] * len(shown))
    kept = np.array([row.kept for row in shown], bool)
    positions = np.array([points[row.index] for row in shown]).reshape(-1, 2)
    colours = np.array([colour(row.cluster) for row in shown])
    for part, alpha in ((~kept, 0.55), (kept, 1)):
        style = {"s": areas[part], "c": colours[part], "alpha": alpha}
        ax.scatter(*positions[part].T, **style, linewidths=0, zorder=3)
    rings = (np.sqrt(areas[kept]) + 6) ** 2
    ax.scatter(*positions[kept].T, s=rings, facecolors="none", edgecolors=INK, zorder=4)


def draw_spokes(ax: Any, report: SelectionReport, points: _Points) -> None:
    """Draw a line from each learner to the representative of its cluster."""
    if report.representative not in _ONE_A_CLUSTER:
        return
    shown = report.on_map
    representatives = {row.cluster: points[row.index] for row in shown if row.kept}
    for row in shown:
        if row.cluster in representatives:
            ends = np.array([points[row.index], representatives[row.cluster]])
            ax.plot(*ends.T, color=colour(row.cluster), alpha=0.35, lw=1, zorder=1)


def draw_ensemble(ax: Any, position: tuple[float, float]) -> None:
    """Draw the ensemble as a star."""
    ax.scatter(*position, s=330, marker="*", color=_STAR, edgecolors="white", zorder=5)


def ensemble_label(
    report: SelectionReport, position: tuple[float, float]
) -> dict[str, Any]:
    """Return the label of the star at a size in kB and an accuracy in percent."""
    size, accuracy = position
    text = f"ensemble of {len(report.kept)}\n{accuracy:.1f}%, {size:.3g} kB"
    return {"text": text, "xy": position, "color": _STAR, "weight": "bold"}


def kept_labels(
    ax: Any, report: SelectionReport, points: _Points
) -> list[dict[str, Any]]:
    """Return the labels of the kept learners."""
    width = min(24, int(4 * ax.figure.get_figwidth()))
    return [
        {
            "text": f"{shorten(row.name, width)}\n{row.score:.1%}",
            "xy": points[row.index],
            "color": INK,
        }
        for row in report.kept
        if row.index in points
    ]


def scale_size_axes(ax: Any, sizes: list[float]) -> None:
    """Scale the axes of a plot of accuracy in percent against sizes."""
    ax.margins(0.14, 0.16)
    if min(sizes) > 0 and max(sizes) > 10 * min(sizes):
        from matplotlib.ticker import LogLocator

        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
    else:
        ax.set_xlim(left=0)
    low, high = ax.get_ylim()
    ax.set_yticks([tick for tick in ax.get_yticks() if low <= tick <= min(high, 100)])


def legend(ax: Any) -> None:
    """Write the names of the lines below the axes."""
    from matplotlib.transforms import ScaledTranslation

    below_labels = ScaledTranslation(0, -30 / 72, ax.figure.dpi_scale_trans)
    result = ax.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        bbox_transform=ax.transAxes + below_labels,
        borderaxespad=0,
        ncols=2,
        frameon=False,
        fontsize=8.5,
        labelcolor=INK,
    )
    for text in result.get_texts():
        text.set_parse_math(False)


def label(ax: Any, labels: list[dict[str, Any]], points: _Points) -> None:
    """Write each label beside its point, where it covers the least.

    A label is omitted if it fits nowhere without touching another label or a point that
    has one.
    """
    figure = ax.figure.canvas.figure
    figure.draw_without_rendering()
    reach = 6 * figure.dpi / 72
    positions = np.array([*points.values()]).reshape(-1, 2)
    marks = ax.transData.transform(positions)
    named = ax.transData.transform([item["xy"] for item in labels] or np.empty((0, 2)))
    written: list[Any] = []
    for item in labels:
        note = _note(ax, item)
        box = _place(note, ax, marks, named, reach, written)
        if box is None:
            note.remove()
        else:
            written.append(box)
            if np.hypot(*note.get_position()) > _OFFSETS[0][0]:
                _leader(ax, item["xy"], note.get_position())


def _note(ax: Any, item: dict[str, Any]) -> Any:
    from matplotlib.patheffects import withStroke

    style = {"fontsize": 8.5, "linespacing": 1.15, "zorder": 6}
    style["parse_math"] = False  # a name may contain dollar signs
    note = ax.annotate(**item, **style, xytext=(0, 0), textcoords="offset points")
    note.set_in_layout(False)  # or the axes would move under the labels just placed
    note.set_path_effects([withStroke(linewidth=2.5, foreground="white", alpha=0.85)])
    return note


def _leader(ax: Any, mark: tuple[float, float], offset: tuple[float, float]) -> None:
    line = {"arrowstyle": "-", "color": NOISE, "lw": 0.7, "shrinkA": 0, "shrinkB": 8}
    position = {"xytext": offset, "textcoords": "offset points", "zorder": 2}
    ax.annotate("", mark, **position, arrowprops=line).set_in_layout(False)


def _place(
    note: Any,
    ax: Any,
    marks: np.ndarray,
    named: np.ndarray,
    reach: float,
    written: list[Any],
) -> Any:
    """Move a note to the offset of the lowest cost; return its box, or `None`."""
    mark = ax.transData.transform(note.xy)
    pixels = ax.figure.dpi / 72
    best, best_cost = None, _NO_SPACE
    for offset in _OFFSETS:
        box = _move(note, offset)
        outside = not (ax.bbox.contains(*box.min) and ax.bbox.contains(*box.max))
        hidden = outside + sum(map(box.overlaps, written)) + _covered(box, named, reach)
        end = mark + pixels * np.array(offset)
        cost = _NO_SPACE * hidden + _covered(box, marks, reach)
        cost += _crossed(mark, end, marks, reach)
        cost += 5 * _crossed(mark, end, named, reach)
        if cost < best_cost:
            best, best_cost = offset, cost
    return None if best is None else _move(note, best)


def _covered(box: Any, marks: np.ndarray, reach: float) -> int:
    inside = (marks > box.min - reach) & (marks < box.max + reach)
    return int(inside.all(axis=1).sum())


def _crossed(
    start: np.ndarray, end: np.ndarray, marks: np.ndarray, reach: float
) -> int:
    """Count the marks that a leader crosses, except at its start."""
    along = np.clip((marks - start) @ (end - start) / np.sum((end - start) ** 2), 0, 1)
    near = np.linalg.norm(marks - start - along[:, None] * (end - start), axis=1)
    return int(((near < reach) & (along > 0) & (marks != start).any(axis=1)).sum())


def _move(note: Any, offset: tuple[float, float]) -> Any:
    x, y = offset
    note.set(position=offset)
    note.set_horizontalalignment("left" if x > 0 else "right" if x < 0 else "center")
    note.set_verticalalignment("bottom" if y > 0 else "top" if y < 0 else "center")
    return note.get_window_extent()
