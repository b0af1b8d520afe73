import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_micronets.export.atomic import write_atomically

STARTS = ("parent", "previous")


@dataclass(frozen=True)
class Cycle:
    """What one cycle of training is: the four values in which the methods differ.

    Args:
        start: `"parent"` when each cycle begins with the weights, statistics and
            masks that the model had when the first one began; `"previous"` when it
            goes on from the learner before. Defaults to `"previous"`.
        draw: How the cycle's mask is drawn: one of
            `keras_micronets.callbacks.masks`, or any function `draw(model, index,
            seed)` that sets masks. `None` to leave the masks as they are. Defaults
            to `None`.
        learning_rate: The learning rate as a function of the cycle's progress in
            [0, 1], as `keras_micronets.learning_rates` has them. `None` to leave it
            to the optimizer. Defaults to `None`.
        quantize: Float in [0, 1), the cycle's progress at which its fake quantisers
            are switched on. `None` for no quantisers. Defaults to `None`.
        compact: Boolean, whether learners are kept without the channels that no kernel
            reads, as `draws.Channels` leaves them. They are plain Keras models, whose
            ranges are measured when they become int8 files. Defaults to `False`.

    Raises:
        ValueError: If `start` or `quantize` is none of these, or learners shall be
            compact and have learned ranges.

    Example:

    ```python
    Cycle(start="parent", learning_rate=keras_micronets.learning_rates.Cosine(1e-3))
    ```
    """

    start: str = "previous"
    draw: Callable | None = None
    learning_rate: Callable[[float], float] | None = None
    quantize: float | None = None
    compact: bool = False

    def __post_init__(self):
        if self.start not in STARTS:
            raise ValueError(
                f"Expected `start` to be one of {STARTS}. "
                f"Received: start={self.start!r}."
            )
        if self.quantize is not None and not 0.0 <= self.quantize < 1.0:
            raise ValueError(
                "Expected `quantize` in [0, 1), a share of the cycle, or `None`. "
                f"Received: quantize={self.quantize}."
            )
        if self.compact and self.quantize is not None:
            raise ValueError(
                "Expected `quantize=None` with `compact=True`: what is cut has no "
                "quantisers. Received: both. Quantise the pool: "
                "`pool.quantize(representative_data)`."
            )


class Parent:
    """The weights that the cycles of a run begin with, kept in a file.

    Masks and the ranges of quantisers are among them; the states of random number
    generators are not, so that no two cycles see the same noise.

    Args:
        path: The file, an `.npz`.
    """

    def __init__(self, path: Path):
        self.path = path

    def save(self, model: keras.Model) -> None:
        """Keep the weights that a model has now."""
        buffer = io.BytesIO()
        np.savez(buffer, *(ops.convert_to_numpy(weight) for weight in model.weights))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, buffer.getvalue())

    def restore(self, model: keras.Model) -> None:
        """Give a model the weights that were kept."""
        with np.load(self.path, allow_pickle=False) as arrays:
            for weight, array in zip(model.weights, arrays.values(), strict=True):
                weight.assign(array)
