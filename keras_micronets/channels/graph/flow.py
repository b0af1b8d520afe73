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
