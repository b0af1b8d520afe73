"""The parts of a channel graph: axes of weights, calls of kernels, traced tensors."""

from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

__all__ = ["KernelCall", "Node", "Setting", "TracedTensor"]


Setting = tuple[str, int | tuple | None] | None


@dataclass(frozen=True, eq=False)
class Node:
    """An axis of a layer's weight that becomes shorter when channels are cut.

    Attributes:
        layer: The layer.
        weight: The `keras.Variable`; `None` for an axis that only the layer's
            configuration names, such as the target shape of a `Reshape`.
        axis: Integer, the axis of the variable.
        channels: Integer array `(axis length,)`, the channel number of each index.
        setting: `(name, index)` of the configuration entry with the length, the index
            `None` if the entry is a number, or the path to it in a nested entry. The
            entry `"key"` is the argument of a slice. `None` if no entry has it.
        role: What the layer does with the channels. `"produces"`: its kernel makes
            them. `"reads"`: it sums over them, so zeros in their place remove them.
            `"averages"`: it takes a mean or maximum of them, which zeros would change.
            `"follows"`: it has one element for each channel that it receives.
        size: Integer, the width of one index: that of an attention head. Defaults to
            `1`.
    """

    layer: keras.Layer
    weight: Any
    axis: int
    channels: np.ndarray
    setting: Setting = None
    role: str = "follows"
    size: int = 1

    def broadcast(self, values: np.ndarray) -> np.ndarray:
        """Reshape an array `(axis length,)` so that it broadcasts to the weight."""
        shape = [1] * len(self.weight.shape)
        shape[self.axis] = -1
        return values.reshape(shape)


@dataclass(frozen=True, eq=False)
class KernelCall:
    """One use of a kernel, as counted in multiply-accumulates.

    Attributes:
        weight: The kernel's variable.
        positions: Integer, how often the kernel is applied to one sample along axes
            without channels.
        axes: Channel arrays of the other axes along which it is applied, as after a
            `Permute`.
        of_weight: Boolean, whether all weights of the kernel are multiplied. If not,
            two tensors are, at these positions. Defaults to `True`.
    """

    weight: keras.Variable
    positions: int
    axes: tuple[np.ndarray, ...] = ()
    of_weight: bool = True


@dataclass(frozen=True, eq=False)
class TracedTensor:
    """A symbolic tensor with the channel numbers of its axes.

    Attributes:
        shape: Its shape, the batch axis first.
        channels: Dictionary from axis to an integer array `(axis length,)` of channel
            numbers, where known.
    """

    shape: tuple[Any, ...]
    channels: dict[int, np.ndarray] = field(default_factory=dict)


def describe_operation(operation: keras.Operation) -> str:
    """Return the name and the class of an operation."""
    return f"{operation.name} ({type(operation).__name__})"
