from typing import TYPE_CHECKING, Any

import keras

from keras_micronets import _figures, _keras_private
from keras_micronets._figures import INK
from keras_micronets.layers.litert.capabilities import is_quantizable, row_of
from keras_micronets.layers.reports import quantization_report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROUNDED, _FUSED, _FLOAT, _KERNEL = "#D55E00", "#E8F1F8", "#FBE3E3", "#0072B2"
_CLOSE, _APART, _COLUMN = 1.0, 1.6, 3.0
_BOX = {"boxstyle": "round,pad=0.35", "edgecolor": "#9a9a9a", "linewidth": 0.8}


def plot_quantizers(model: keras.Model, ax: Any = None) -> "Figure":
    """Draw a model's graph, and on it the tensors that are rounded.

    Layers that a device computes as one operation stand close together. A point below
    a layer says that its output is rounded, one above it that its input is; beside it
    stands the range. A blue frame is a quantised kernel's. What has no quantised twin
    is red.

    Args:
        model: A functional or sequential Keras model, prepared with quantisers. A
            nested model is one box.
        ax: A matplotlib `Axes` to draw on. Defaults to `None`, a new figure.

    Returns:
        The matplotlib `Figure`.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the model has no graph to read.

    Example:

    ```python
    plot_quantizers(model).savefig("quantizers.png")
    ```
    """
    if not _keras_private.is_functional(model):
        raise ValueError(
            "Expected a functional or sequential model, whose graph can be drawn. "
            f"Received: {model.name!r}, a {type(model).__name__}. "
            "`quantization_report` lists the quantisers of any model."
        )
    edges = [(a, b) for a, b, _ in _keras_private.edges(model)]
    rows = {(row.layer, row.tensor): row for row in quantization_report(model).rows}
    places = _places(edges, rows)
    if ax is None:
        ax = _figures.new_axes(*_size(places))
    for edge in edges:
        _line(ax, *(places[operation] for operation in edge))
    for operation, place in places.items():
        found = {
            tensor: row
            for (name, tensor), row in rows.items()
            if name == operation.name
        }
        _box(ax, operation, place, has_kernel=any(map(_is_kernel, found)))
        for tensor, row in found.items():
            if not _is_kernel(tensor):
                _mark(ax, tensor, row, place)
    right = max(x for x, _ in places.values()) + _COLUMN / 2
    ax.set(xticks=[], yticks=[], xlim=(-_COLUMN / 2, right))
    ax.margins(y=0.03)
    return ax.figure


def _places(edges, rows):
    """Put each operation below all it reads, and beside what stands as low."""
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
        or getattr(row_of(operation), "keeps_scale", False)
        or isinstance(operation, keras.layers.InputLayer)
    )


def _size(places):
    """Inches that hold the boxes."""
    xs, ys = zip(*places.values(), strict=True)
    return 0.9 * (max(xs) + _COLUMN), 0.8 - 0.42 * min(ys)


def _line(ax, start, end):
    skips = start[1] - end[1] > 2 * _APART or start[0] != end[0]
    bend = -0.3 if skips and start[0] == end[0] else 0.0
    arrow = {"arrowstyle": "-|>", "color": "#9a9a9a", "shrinkA": 9, "shrinkB": 9}
    arrow["connectionstyle"] = f"arc3,rad={bend}"
    ax.annotate("", end, start, arrowprops=arrow, zorder=1)


def _is_kernel(tensor):
    return tensor.endswith("kernel")


def _box(ax, operation, place, *, has_kernel):
    known = isinstance(operation, (keras.layers.InputLayer, keras.Model))
    box = _BOX | {"facecolor": _FUSED if known or is_quantizable(operation) else _FLOAT}
    if has_kernel:
        box |= {"edgecolor": _KERNEL, "linewidth": 1.6}
    look = {"ha": "center", "va": "center", "size": 7, "color": INK, "zorder": 3}
    ax.text(*place, _label(operation), bbox=box, clip_on=False, **look)


def _label(operation):
    name, kind = operation.name, type(operation).__name__
    short = name if len(name) < 28 else f"{name[:26]}…"
    told = name.replace("_", "").startswith(kind.lower())
    return short if told else f"{short}\n{kind}"


def _mark(ax, tensor, row, place):
    x, y = place[0], place[1] + (0.5 if tensor.startswith("input") else -0.5)
    ax.plot(x, y, marker="o", color=_ROUNDED, ms=5, zorder=4)
    text = f"[{row.lower:.2g}, {row.upper:.2g}]" if row.learned else "no data"
    side = 1 if x > 0 else -1  # shortcuts of the first column bend to the right
    look = {"size": 6.5, "va": "center", "color": _ROUNDED}
    ax.text(x + 0.2 * side, y, text, ha="left" if side > 0 else "right", **look)
