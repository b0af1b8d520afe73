"""Handles on the kernels of a prepared model: weights, masks, sparsity."""

from dataclasses import dataclass, field

import keras
import numpy as np
from keras import ops

from keras_micronets import _keras_private
from keras_micronets.layers.layout import Layout, layout_of
from keras_micronets.layers.litert.capabilities import is_composite
from keras_micronets.layers.micro.masked_layer import MaskedLayer

__all__ = ["Kernel", "kernels", "sparsity", "write_zeros"]


@dataclass(frozen=True)
class Kernel:
    """Read and set the raw weights and the mask of one kernel of a prepared layer.

    Attributes:
        layer: The micro layer.
        name: Name of the kernel within the layer, such as `"kernel"`.
        enclosing: The wrappers and attention layers that the layer is part of, the
            outermost first.
    """

    layer: MaskedLayer
    name: str
    enclosing: tuple[keras.Layer, ...] = field(default=(), compare=False)

    @property
    def path(self) -> str:
        """The layer's name, and the kernel's where the layer has several.

        The name of a projection in an attention layer follows the name of that layer.
        """
        several = len(self.layer.kernel_names) > 1
        owners = [x.name for x in self.enclosing if getattr(x, "names_its_parts", 0)]
        return "/".join([*owners, self.layer.name, *[self.name] * several])

    @property
    def outermost(self) -> keras.Layer:
        """The layer, or the outermost wrapper or attention layer around it."""
        return self.enclosing[0] if self.enclosing else self.layer

    @property
    def variable(self) -> keras.Variable:
        """The variable of the raw weights, which trains and is saved."""
        return self.layer.kernel_variable(self.name)

    @property
    def layout(self) -> Layout:
        """How to bring an array of the kernel's shape to `(..., inputs, outputs)`."""
        return layout_of(self.layer, self.name)

    @property
    def size(self) -> int:
        """Number of weights."""
        return int(np.prod(self.variable.shape))

    @property
    def weights(self) -> np.ndarray:
        """The raw weights."""
        return ops.convert_to_numpy(self.variable)

    @property
    def mask(self) -> np.ndarray:
        """The mask, `True` where a weight is kept."""
        return ops.convert_to_numpy(self._mask.mask)

    @property
    def sparsity(self) -> float:
        """The fraction of weights that the mask removes."""
        return 1.0 - int(np.count_nonzero(self.mask)) / self.size

    def set_mask(self, mask: np.ndarray) -> None:
        """Set the mask, and set the weights that it removes to zero.

        Args:
            mask: Boolean array of the kernel's shape.
        """
        self.assign_mask(mask)
        self.write_zeros()

    def assign_mask(self, mask: np.ndarray) -> None:
        """Set the mask only: removed weights keep their values and can be restored.

        Args:
            mask: Boolean array of the kernel's shape.
        """
        self._mask.mask.assign(mask)

    def write_zeros(self) -> None:
        """Set the raw weights that the mask removes to zero."""
        variable = self.variable
        mask, weights = map(ops.convert_to_tensor, (self._mask.mask, variable))
        variable.assign(ops.where(mask, weights, 0.0))

    @property
    def _mask(self):
        return getattr(self.layer, f"{self.name}_mask")


def kernels(model: keras.Model) -> list[Kernel]:
    """Return handles on all kernels of a prepared model, each once.

    Args:
        model: A prepared model.
    """
    enclosing = {}
    for layer in _keras_private.flatten_layers(model):
        if isinstance(layer, keras.layers.Wrapper) or is_composite(layer):
            for inner in _keras_private.flatten_layers(layer)[1:]:
                enclosing[inner] = (*enclosing.get(inner, ()), layer)
    return [
        Kernel(layer, name, enclosing.get(layer, ()))
        for layer in _keras_private.flatten_layers(model)
        if isinstance(layer, MaskedLayer)
        for name in layer.kernel_names
    ]


def sparsity(model: keras.Model) -> float:
    """Return the fraction of all maskable weights that a model's masks remove."""
    handles = kernels(model)
    removed = sum(handle.size * handle.sparsity for handle in handles)
    return removed / max(1, sum(handle.size for handle in handles))


def write_zeros(model: keras.Model) -> None:
    """Set all raw weights of a model that its masks remove to zero."""
    for kernel in kernels(model):
        kernel.write_zeros()
