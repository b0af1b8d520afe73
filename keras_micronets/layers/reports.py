"""Reports on the sparsity and the quantisation of a model: tables, and a plot."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
from keras import ops

from keras_micronets import _figures, _keras_private
from keras_micronets._figures import INK
from keras_micronets.layers.kernels import kernels
from keras_micronets.layers.litert.capabilities import is_quantizable, row_of
from keras_micronets.layers.micro.micro_layer import MicroLayer
from keras_micronets.layers.quantizers.activation import ActivationQuantizer
from keras_micronets.layers.side_by_side import SideBySide
from keras_micronets.layers.state import Quantizer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "QuantizationReport",
    "QuantizedTensor",
    "SparsityReport",
    "plot_quantizers",
    "quantization_report",
    "quantizers_of",
    "sparsity_report",
]

_ROUNDED, _FUSED, _FLOAT, _KERNEL = "#D55E00", "#E8F1F8", "#FBE3E3", "#0072B2"
_CLOSE, _APART, _COLUMN = 1.0, 1.6, 3.0
_BOX = {"boxstyle": "round,pad=0.35", "edgecolor": "#9a9a9a", "linewidth": 0.8}


@dataclass(frozen=True)
class SparsityReport:
    """List the sparsity of each kernel of a model; printed as a table.

    Attributes:
        rows: For each kernel `(path, shape, n_weights, n_masked)`.
    """

    rows: tuple[tuple[str, tuple[int, ...], int, int], ...]

    @property
    def sparsity(self) -> float:
        """The fraction of all maskable weights that the masks remove."""
        masked = sum(row[3] for row in self.rows)
        return masked / max(1, sum(row[2] for row in self.rows))

    def __str__(self) -> str:
        lines = [f"{'kernel':<28}{'shape':>18}{'weights':>10}{'sparsity':>10}"]
        for path, shape, size, masked in self.rows:
            share = f"{masked / size:.1%}"
            lines.append(f"{path:<28}{shape!s:>18}{size:>10,}{share:>10}")
        total = sum(row[2] for row in self.rows)
        lines.append(f"{'all':<28}{'':>18}{total:>10,}{self.sparsity:>10.1%}")
        return "\n".join(lines)


def sparsity_report(model: keras.Model) -> SparsityReport:
    """Return the sparsity of each kernel of a model.

    Args:
        model: A built Keras model. If it was not prepared, the report has no rows.

    Example:

    ```python
    print(kmn.sparsity_report(model))
    ```
    """
    rows = [
        (prefix + k.path, tuple(k.mask.shape), k.size, int(k.size - k.mask.sum()))
        for prefix, member in _by_prefix(model)
        for k in kernels(member)
    ]
    return SparsityReport(tuple(rows))


@dataclass(frozen=True)
class QuantizedTensor:
    """Describe a fake quantiser: a row of a `QuantizationReport`.

    Attributes:
        layer: Name of the layer.
        tensor: Which of its tensors, such as `"output"`, `"input_0"` or `"kernel"`.
        bits: Width of the integers.
        lower, upper: The range; for a kernel, the largest range of its filters.
        n_steps: Number of step sizes: one for each filter, or 1.
        active: Whether the quantiser is on.
    """

    layer: str
    tensor: str
    bits: int
    lower: float
    upper: float
    n_steps: int
    active: bool

    @property
    def learned(self) -> bool:
        """Whether the quantiser has a range: it has none before it has seen data."""
        return self.lower < self.upper

    @property
    def step(self) -> float:
        """The step size, the largest if there are several."""
        narrow = self.lower == -self.upper  # the integers of kernels are symmetric
        return (self.upper - self.lower) / (2**self.bits - 1 - narrow)

    def __str__(self) -> str:
        if not self.learned:
            return "no data seen"
        steps = f" ({self.n_steps} steps)" if self.n_steps > 1 else ""
        return (
            f"[{self.lower:.3g}, {self.upper:.3g}] in steps of {self.step:.3g}{steps}"
        )


@dataclass(frozen=True)
class QuantizationReport:
    """List the fake quantisers of a model and their ranges; printed as a table.

    Attributes:
        rows: A `QuantizedTensor` for each fake quantiser, in the order of the layers.
    """

    rows: tuple[QuantizedTensor, ...]

    def __str__(self) -> str:
        lines = [f"{'layer':<28}{'tensor':<18}{'bits':>4}     range"]
        for row in self.rows:
            state = "" if row.active else ", off"
            name = f"{row.layer:<28}{row.tensor:<18}{row.bits:>4}"
            lines.append(f"{name}     {row}{state}")
        return "\n".join(lines)


def quantization_report(model: keras.Model) -> QuantizationReport:
    """Return the ranges of a model's fake quantisers.

    Args:
        model: A built Keras model. If it was not prepared for quantisation, the report
            has no rows.

    Example:

    ```python
    print(kmn.quantization_report(model))
    ```
    """
    rows = (
        _row(prefix + layer.name, layer, name, quantizer)
        for prefix, member in _by_prefix(model)
        for layer in _keras_private.flatten_layers(member)
        for name, quantizer in quantizers_of(layer).items()
    )
    return QuantizationReport(tuple(rows))


def _by_prefix(model):
    """Return pairs of a prefix of layer names and a model, for each member."""
    if not isinstance(model, SideBySide):
        return [("", model)]
    return [(f"member_{i + 1}/", member) for i, member in enumerate(model.members)]


def quantizers_of(layer: keras.Layer) -> dict[str, Quantizer]:
    """Return the fake quantisers of a layer by the names of its tensors."""
    states = layer.nested_states() if isinstance(layer, MicroLayer) else {}
    return {
        name.removesuffix("_quantizer"): state
        for name, state in states.items()
        if isinstance(state, Quantizer)
    }


def _row(path, layer, name, quantizer):
    if isinstance(quantizer, ActivationQuantizer):
        lower, upper = map(_number, quantizer.live_bounds())
        n_steps = 1
    else:
        kernel = layer.to_litert(name, layer.masked_kernel(name))
        limits = ops.convert_to_numpy(quantizer.limit(kernel))
        lower, upper, n_steps = -float(limits.max()), float(limits.max()), limits.size
    active = bool(ops.convert_to_numpy(quantizer.active))
    return QuantizedTensor(path, name, quantizer.bits, lower, upper, n_steps, active)


def _number(tensor):
    return ops.convert_to_numpy(tensor).item()


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
