"""Canonical layout of kernels: inputs and outputs are the last two axes."""

from dataclasses import dataclass
from math import prod

import keras
import numpy as np

__all__ = ["DEPTHWISE", "Layout", "layout_of"]

DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_TRANSPOSED = (
    *(keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose),
    keras.layers.Conv3DTranspose,
)


@dataclass(frozen=True)
class Layout:
    """Bring arrays of a kernel's shape to `(..., inputs, outputs)` and back.

    `inputs` are the inputs that one output sums over. The axes before them, such as the
    height and width of a convolution, are summed over too.

    Args:
        order: Tuple of integers, the kernel's axes in canonical order.
        ordered: Tuple of integers, the kernel's shape in that order.
        shape: Tuple of integers, the canonical shape, in which axes are merged.
        groups: Integer, the groups of a grouped convolution: input `i` of the
            canonical shape is another channel in each group of outputs. Defaults to
            `1`.

    Example:

    ```python
    kmn.layers.prepare(model)
    kernel = kmn.layers.kernels(model)[0]
    canonical = kernel.layout.canonical(kernel.weights)
    kernel.layout.restore(canonical)  # kernel.weights
    ```
    """

    order: tuple[int, ...]
    ordered: tuple[int, ...]
    shape: tuple[int, ...]
    groups: int = 1

    def canonical(self, array: np.ndarray) -> np.ndarray:
        """Bring an array of the kernel's shape into the canonical layout."""
        return array.transpose(self.order).reshape(self.shape)

    def restore(self, array: np.ndarray) -> np.ndarray:
        """Bring an array in the canonical layout back into the kernel's shape."""
        return array.reshape(self.ordered).transpose(np.argsort(self.order))


def layout_of(layer: keras.Layer, name: str) -> Layout:
    """Return the layout of a kernel.

    * Dense, Embedding, Conv1D to Conv3D, recurrent layers, pointwise kernels of
      separable layers: unchanged.
    * Conv1DTranspose to Conv3DTranspose: the last two axes of `(..., out, in)` are
      swapped.
    * Depthwise kernels: `(h, w, channels, multiplier)` becomes
      `(h, w, 1, channels * multiplier)`, since each output has one input.
    * EinsumDense: `(inputs, outputs)`; the axes that the equation sums over are merged
      into one, and all others into the other.

    Args:
        layer: A layer, prepared or not.
        name: Name of the kernel within the layer, such as `"kernel"`.
    """
    if isinstance(layer, keras.layers.EinsumDense):
        return _einsum(layer)
    shape = _shape(layer, name)
    order = tuple(range(len(shape)))
    if isinstance(layer, _TRANSPOSED):
        order = (*order[:-2], order[-1], order[-2])
        ordered = tuple(shape[axis] for axis in order)
        return Layout(order, ordered, ordered)
    if name == "depthwise_kernel" or isinstance(layer, DEPTHWISE):
        return Layout(order, shape, (*shape[:-2], 1, shape[-2] * shape[-1]))
    return Layout(order, shape, shape, getattr(layer, "groups", 1))


def _einsum(layer):
    _, _, rest = layer.equation.replace(" ", "").partition(",")
    letters, _, output = rest.partition("->")
    shape = _shape(layer, "kernel")
    summed = [axis for axis, letter in enumerate(letters) if letter not in output]
    others = [axis for axis in range(len(shape)) if axis not in summed]
    order = (*summed, *others)
    ordered = tuple(shape[axis] for axis in order)
    n_summed = prod(ordered[: len(summed)])
    return Layout(order, ordered, (n_summed, prod(shape) // n_summed))


def _shape(layer, name):
    owner = layer if hasattr(layer, name) else layer.cell  # of a recurrent layer
    return tuple(getattr(owner, name).shape)
