"""What stands in the margin of a picture: names beside rows, bars for clusters."""

from itertools import groupby
from typing import Any

import numpy as np
from sklearn.isotonic import isotonic_regression

from keras_micronets.selection.report import _drawing as draw

_LINE, _GAP, _REACH = 10.5, 4, 14  # points: a line of text, and the leader's parts


def names(ax: Any, texts: dict[int, str]) -> None:
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


def bars(ax: Any, clusters: list[int]) -> None:
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
