"""The strokes that the pictures share. Imports matplotlib only when drawing."""

from typing import Any

import numpy as np

from keras_micronets import _figures
from keras_micronets._figures import FAINT, INK
from keras_micronets.selection.report.report import SelectionReport, shorten

# Okabe and Ito's colours, told apart by colour-blind readers, and three more; clusters
# beyond the tenth begin again.
_COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B8A800"]
_COLOURS += ["#6A3D9A", "#7F5539", "#5C6B73"]
NOISE, SOFT, _STAR = "#9a9a9a", "#555555", "#C1121F"
# Where a label may stand, in points from its mark, the best first.
_SIDES = [(1, 0), (-1, 0), (0, 1), (0, -1)]
_CORNERS = [(0.7, 0.7), (-0.7, 0.7), (0.7, -0.7), (-0.7, -0.7)]
_OFFSETS = [(r * x, r * y) for r in (13, 22, 34, 50, 70) for x, y in _SIDES + _CORNERS]
_NO_ROOM = 1000
_ONE_A_CLUSTER = ("accuracy", "loss", "medoid", "farthest")
_Points = dict[int, tuple[float, float]]


def new_axes(width: float = 7.2, height: float = 5.2) -> Any:
    ax = _figures.new_axes(width, height)
    ax.grid(color=FAINT, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.tick_params(length=0, labelsize=8.5, labelcolor=SOFT)
    ax.xaxis.label.set(fontsize=9, color=INK)
    ax.yaxis.label.set(fontsize=9, color=INK)
    return ax


def colour(cluster: int) -> str:
    return _COLOURS[cluster % len(_COLOURS)] if cluster >= 0 else NOISE


def sizes_by_accuracy(report: SelectionReport) -> list[float]:
    accuracies = np.array([row.accuracy for row in report.on_map])
    spread = max(float(np.ptp(accuracies)), 1e-9)
    return (30 + 110 * (accuracies - accuracies.min()) / spread).tolist()


def learners(
    ax: Any, report: SelectionReport, points: _Points, sizes: list[float] | None = None
) -> None:
    shown = [row for row in report.rows if row.index in points]
    areas = np.array(sizes or [60] * len(shown))
    kept = np.array([row.kept for row in shown], bool)
    at = np.array([points[row.index] for row in shown]).reshape(-1, 2)
    colours = np.array([colour(row.cluster) for row in shown])
    for part, alpha in ((~kept, 0.55), (kept, 1)):
        look = {"s": areas[part], "c": colours[part], "alpha": alpha}
        ax.scatter(*at[part].T, **look, linewidths=0, zorder=3)
    rings = (np.sqrt(areas[kept]) + 6) ** 2
    ax.scatter(*at[kept].T, s=rings, facecolors="none", edgecolors=INK, zorder=4)


def spokes(ax: Any, report: SelectionReport, points: _Points) -> None:
    if report.representative not in _ONE_A_CLUSTER:
        return
    shown = report.on_map
    keepers = {row.cluster: points[row.index] for row in shown if row.kept}
    for row in shown:
        if row.cluster in keepers:
            ends = np.array([points[row.index], keepers[row.cluster]])
            ax.plot(*ends.T, color=colour(row.cluster), alpha=0.35, lw=1, zorder=1)


def ensemble(ax: Any, at: tuple[float, float]) -> None:
    ax.scatter(*at, s=330, marker="*", color=_STAR, edgecolors="white", zorder=5)


def ensemble_label(report: SelectionReport, at: tuple[float, float]) -> dict[str, Any]:
    text = f"ensemble of {len(report.kept)}\n{at[1]:.1f}%, {at[0]:.3g} kB"
    return {"text": text, "xy": at, "color": _STAR, "weight": "bold"}


def kept_labels(
    ax: Any, report: SelectionReport, points: _Points
) -> list[dict[str, Any]]:
    room = min(24, int(4 * ax.figure.get_figwidth()))
    return [
        {
            "text": f"{shorten(row.name, room)}\n{row.accuracy:.1%}",
            "xy": points[row.index],
            "color": INK,
        }
        for row in report.kept
        if row.index in points
    ]


def size_axes(ax: Any, sizes: list[float]) -> None:
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


def label(ax: Any, labels: list[dict[str, Any]], points: _Points) -> None:
    """Write each label beside its point, where it covers least.

    A label that finds no place beside those already there, or none that leaves the
    points with labels free, is left out.
    """
    figure = ax.figure.canvas.figure
    figure.draw_without_rendering()
    reach = 6 * figure.dpi / 72
    places = np.array([*points.values()]).reshape(-1, 2)
    taken = ax.transData.transform(places)
    named = ax.transData.transform([item["xy"] for item in labels] or np.empty((0, 2)))
    written: list[Any] = []
    for item in labels:
        note = _note(ax, item)
        box = _place(note, ax, taken, named, reach, written)
        if box is None:
            note.remove()
        else:
            written.append(box)
            if np.hypot(*note.get_position()) > _OFFSETS[0][0]:
                _leader(ax, item["xy"], note.get_position())


def _note(ax: Any, item: dict[str, Any]) -> Any:
    from matplotlib.patheffects import withStroke

    look = {"fontsize": 8.5, "linespacing": 1.15, "zorder": 6}
    # A name may hold dollar signs.
    look["parse_math"] = False
    note = ax.annotate(**item, **look, xytext=(0, 0), textcoords="offset points")
    note.set_in_layout(False)  # or the axes would move under the labels just placed
    note.set_path_effects([withStroke(linewidth=2.5, foreground="white", alpha=0.85)])
    return note


def _leader(ax: Any, mark: tuple[float, float], offset: tuple[float, float]) -> None:
    line = {"arrowstyle": "-", "color": NOISE, "lw": 0.7, "shrinkA": 0, "shrinkB": 8}
    where = {"xytext": offset, "textcoords": "offset points", "zorder": 2}
    ax.annotate("", mark, **where, arrowprops=line).set_in_layout(False)


def _place(
    note: Any,
    ax: Any,
    taken: np.ndarray,
    named: np.ndarray,
    reach: float,
    written: list[Any],
) -> Any:
    mark = ax.transData.transform(note.xy)
    pixels = ax.figure.dpi / 72
    best, best_cost = None, _NO_ROOM
    for offset in _OFFSETS:
        box = _move(note, offset)
        outside = not (ax.bbox.contains(*box.min) and ax.bbox.contains(*box.max))
        hidden = outside + sum(map(box.overlaps, written)) + _covered(box, named, reach)
        end = mark + pixels * np.array(offset)
        cost = _NO_ROOM * hidden + _covered(box, taken, reach)
        cost += _crossed(mark, end, taken, reach) + 5 * _crossed(
            mark, end, named, reach
        )
        if cost < best_cost:
            best, best_cost = offset, cost
    return None if best is None else _move(note, best)


def _covered(box: Any, taken: np.ndarray, reach: float) -> int:
    inside = (taken > box.min - reach) & (taken < box.max + reach)
    return int(inside.all(axis=1).sum())


def _crossed(
    start: np.ndarray, end: np.ndarray, taken: np.ndarray, reach: float
) -> int:
    """Count the marks that a leader would pass over, not those at its start."""
    along = np.clip((taken - start) @ (end - start) / np.sum((end - start) ** 2), 0, 1)
    near = np.linalg.norm(taken - start - along[:, None] * (end - start), axis=1)
    return int(((near < reach) & (along > 0) & (taken != start).any(axis=1)).sum())


def _move(note: Any, offset: tuple[float, float]) -> Any:
    x, y = offset
    note.set(position=offset)
    note.set_horizontalalignment("left" if x > 0 else "right" if x < 0 else "center")
    note.set_verticalalignment("bottom" if y > 0 else "top" if y < 0 else "center")
    return note.get_window_extent()
