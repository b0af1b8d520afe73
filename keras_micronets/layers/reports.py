"""Reports on the sparsity and the quantisation of a model, printed as tables."""

from dataclasses import dataclass

import keras
from keras import ops

from keras_micronets import _keras_private
from keras_micronets.layers.kernels import kernels
from keras_micronets.layers.micro.micro_layer import MicroLayer
from keras_micronets.layers.quantizers.activation import ActivationQuantizer
from keras_micronets.layers.state import Quantizer

__all__ = [
    "QuantizationReport",
    "QuantizedTensor",
    "SparsityReport",
    "quantization_report",
    "quantizers_of",
    "sparsity_report",
]


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
        (k.path, tuple(k.mask.shape), k.size, int(k.size - k.mask.sum()))
        for k in kernels(model)
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
    layers = dict.fromkeys(_keras_private.flatten_layers(model))
    rows = (
        _row(layer, name, quantizer)
        for layer in layers
        for name, quantizer in quantizers_of(layer).items()
    )
    return QuantizationReport(tuple(rows))


def quantizers_of(layer: keras.Layer) -> dict[str, Quantizer]:
    """Return the fake quantisers of a layer by the names of its tensors."""
    states = layer.states() if isinstance(layer, MicroLayer) else {}
    return {
        name.removesuffix("_quantizer"): state
        for name, state in states.items()
        if isinstance(state, Quantizer)
    }


def _row(layer, name, quantizer):
    if isinstance(quantizer, ActivationQuantizer):
        lower, upper = map(_number, quantizer.live_bounds())
        n_steps = 1
    else:
        kernel = layer.to_litert(name, layer.masked_kernel(name))
        limits = ops.convert_to_numpy(quantizer.limit(kernel))
        lower, upper, n_steps = -float(limits.max()), float(limits.max()), limits.size
    active = bool(ops.convert_to_numpy(quantizer.active))
    return QuantizedTensor(
        layer.name, name, quantizer.bits, lower, upper, n_steps, active
    )


def _number(tensor):
    return ops.convert_to_numpy(tensor).item()
