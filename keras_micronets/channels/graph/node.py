from dataclasses import dataclass, field

import keras
import numpy as np


@dataclass(frozen=True, eq=False)
class Flow:
    """The channels that a tensor of a graph carries.

    Attributes:
        shape: Its shape, the batch first.
        channels: Dictionary from axis to an integer array of the axis's length, the
            number of each channel. Axes that nothing is known of are left out.
    """

    shape: tuple[int | None, ...]
    channels: dict[int, np.ndarray] = field(default_factory=dict)


def described(operation: keras.Operation) -> str:
    """Return what a user may know an operation by."""
    return f"{operation.name} ({type(operation).__name__})"


@dataclass(frozen=True, eq=False)
class Node:
    """A channel axis of a layer: what becomes shorter as channels are cut.

    Attributes:
        layer: The layer.
        weight: The variable that has the axis; `None` for an axis that only a setting
            of the layer names, as the shape of a `Reshape`.
        axis: Integer, the axis of the variable, counted from 0.
        channels: Integer array `(axis length,)`, the number of the channel that each
            index belongs to; tied channels may have several numbers.
        setting: `(name, index)` of the entry of the layer's configuration that holds
            the length, index `None` where it is a number; `None` without one.
        role: What the layer does with the channels. `"makes"`: they are its own.
            `"reads"`: it sums over them, so that zeros there take a channel out of
            everything behind. `"averages"`: it takes a mean over them, which is another
            one without a channel than with zeros. `"follows"`: it has as many as it is
            given.
    """

    layer: keras.Layer
    weight: keras.Variable | None
    axis: int
    channels: np.ndarray
    setting: tuple[str, int | None] | None = None
    role: str = "follows"

    def along(self, values: np.ndarray) -> np.ndarray:
        """Return values, one an index, in a shape that broadcasts to the weight."""
        shape = [1] * len(self.weight.shape)
        shape[self.axis] = -1
        return values.reshape(shape)


@dataclass(frozen=True, eq=False)
class Products:
    """How often a kernel is multiplied with a sample's values in one call.

    Attributes:
        weight: The kernel's variable.
        positions: Integer, how often as long as no channel is cut, but for `axes`.
        axes: Channels of the axes, if any, along which it is applied, as those of a
            Dense layer behind a `Permute`.
    """

    weight: keras.Variable
    positions: int
    axes: tuple[np.ndarray, ...] = ()
