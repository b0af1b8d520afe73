"""Plot of a model's graph with its fake quantisers."""

from typing import TYPE_CHECKING, Any

import keras

from keras_micronets import _figures, _keras_private
from keras_micronets._figures import INK
from keras_micronets.layers.litert.capabilities import is_quantizable, row_of
from keras_micronets.layers.reports import quantization_report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_quantizers"]

_ROUNDED, _FUSED, _FLOAT, _KERNEL = "#D55E00", "#E8F1F8", "#FBE3E3", "#0072B2"
_CLOSE, _APART, _COLUMN = 1.0, 1.6, 3.0
_BOX = {"boxstyle": "round,pad=0.35", "edgecolor": "#9a9a9a", "linewidth": 0.8}


def plot_quantizers(model: keras.Model, ax: Any = None) -> "Figure":
    """Plot a model's graph and the tensors that are quantised.

    Layers that LiteRT computes as one operation are drawn close together. A point below
    a layer stands for a quantised output, a point above it for a quantised input, with
    the range beside it. A layer with a quantised kernel has a blue frame. Layers and
    operations that cannot be quantised are red.

    Args:
        model: A functional or sequential Keras model, prepared with quantisers. A
            nested model is one box.
        ax: A matplotlib `Axes` to draw on. Defaults to `None`, a new figure.

    Returns:
        The matplotlib `Figure`.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the model is subclassed, so that it has no graph.

    Example:

    ```python
    kmn.layers.prepare(model, quantize=True)
    kmn.layers.plot_quantizers(model).savefig("quantizers.png")
    ```
    """
    if not _keras_private.is_functional(model):
        raise ValueError(
            "Expected a functional or sequential model, which has a graph to plot. "
            f"Received: {model.name!r}, a {type(model).__name__}. "
            "`quantization_report` lists the quantisers of any model."
        )
    edges = [(a, b) for a, b, _ in _keras_private.edges(model)]
    rows = {(row.layer, row.tensor): row for row in quantization_report(model).rows}
    positions = _positions(edges, rows)
    if ax is None:
        ax = _figures.new_axes(*_size(positions))
    for edge in edges:
        _line(ax, *(positions[operation] for operation in edge))
    for operation, position in positions.items():
        tensors = {
            tensor: row
            for (name, tensor), row in rows.items()
            if name == operation.name
        }
        _box(ax, operation, position, has_kernel=any(map(_is_kernel, tensors)))
        for tensor, row in tensors.items():
            if not _is_kernel(tensor):
                _point(ax, tensor, row, position)
    right = max(x for x, _ in positions.values()) + _COLUMN / 2
    ax.set(xticks=[], yticks=[], xlim=(-_COLUMN / 2, right))
    ax.margins(y=0.03)
    return ax.figure


def _positions(edges, rows):
    """Place each operation below those it reads, beside others of the same height."""
    operations = list(dict.fromkeys(operation for edge in edges for operation in edge))
    heights = {}
    for operation in operations:  # Keras lists producers before readers
        heights[operation] = max(
            (heights[a] + _gap(a, rows) for a, b in edges if b is operation), default=0
        )
    levels = {}
    for operation, height in heights.items():
        levels.setdefault(round(height, 3), []).append(operation)
    return {
        operation: (_COLUMN * column, -height)
        for height, level in levels.items()
        for column, operation in enumerate(level)
    }


def _gap(producer, rows):
    return _APART if _is_rounded(producer, rows) else _CLOSE


def _is_rounded(operation, rows):
    return (
        (operation.name, "output") in rows
        or row_of(operation).keeps_scale
        or isinstance(operation, keras.layers.InputLayer)
    )


def _size(positions):
    """Return the width and height of the figure in inches."""
    xs, ys = zip(*positions.values(), strict=True)
    return 0.9 * (max(xs) + _COLUMN), 0.8 - 0.42 * min(ys)


def _line(ax, start, end):
    skips = start[1] - end[1] > 2 * _APART or start[0] != end[0]
    bend = -0.3 if skips and start[0] == end[0] else 0.0
    arrow = {"arrowstyle": "-|>", "color": "#9a9a9a", "shrinkA": 9, "shrinkB": 9}
    arrow["connectionstyle"] = f"arc3,rad={bend}"
    ax.annotate("", end, start, arrowprops=arrow, zorder=1)


def _is_kernel(tensor):
    return tensor.endswith("kernel")


def _box(ax, operation, position, *, has_kernel):
    known = isinstance(operation, (keras.layers.InputLayer, keras.Model))
    box = _BOX | {"facecolor": _FUSED if known or is_quantizable(operation) else _FLOAT}
    if has_kernel:
        box |= {"edgecolor": _KERNEL, "linewidth": 1.6}
    look = {"ha": "center", "va": "center", "size": 7, "color": INK, "zorder": 3}
    ax.text(*position, _label(operation), bbox=box, clip_on=False, **look)


def _label(operation):
    name, class_name = operation.name, type(operation).__name__
    short = name if len(name) < 28 else f"{name[:26]}…"
    has_class = name.replace("_", "").startswith(class_name.lower())
    return short if has_class else f"{short}\n{class_name}"


def _point(ax, tensor, row, position):
    x, y = position[0], position[1] + (0.5 if tensor.startswith("input") else -0.5)
    ax.plot(x, y, marker="o", color=_ROUNDED, ms=5, zorder=4)
    text = f"[{row.lower:.2g}, {row.upper:.2g}]" if row.learned else "no data"
    side = 1 if x > 0 else -1  # shortcuts in the first column bend to the right
    look = {"size": 6.5, "va": "center", "color": _ROUNDED}
    ax.text(x + 0.2 * side, y, text, ha="left" if side > 0 else "right", **look)
