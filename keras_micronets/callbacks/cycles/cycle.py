import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_micronets._serialization import Configurable, serializable
from keras_micronets.export.atomic import write_atomically
from keras_micronets.layers.state import plain_variables
from keras_micronets.learning_rates import as_learning_rate

__all__ = ["Cycle", "Parent", "warn_if_untrained"]

INITIAL = ("parent", "previous")


@serializable()
@dataclass(frozen=True, repr=False)
class Cycle(Configurable):
    """Describe one training cycle of `LearnerCycles`.

    Args:
        initial: `"parent"` to start each cycle with the weights, statistics and masks
            that the model had when the first cycle began; `"previous"` to continue
            from the previous learner. Defaults to `"previous"`.
        mask: How the masks of the cycle are set: one of
            `keras_micronets.callbacks.masks`, or any function `mask(model, index,
            seed)` that sets masks. `None` to leave the masks unchanged. Defaults to
            `None`.
        learning_rate: Positive float; a function of the progress of the cycle in
            [0, 1], such as those of `keras_micronets.learning_rates`; or a Keras
            `LearningRateSchedule`, which is called with the step within the cycle.
            `None` for the learning rate that the optimizer was compiled with, or that
            other callbacks set. Defaults to `None`.
        quantize: Float in [0, 1), the progress of the cycle at which its fake
            quantisers are switched on. `None` for no quantisers. Defaults to `None`.
        compact: Boolean, whether learners are saved without the channels that no
            kernel reads, as `masks.Channels` leaves them. With `quantize` they have the
            quantisers of the model, with their ranges; otherwise they are plain Keras
            models, whose ranges are calibrated when they are converted to int8.
            Defaults to `False`.

    Raises:
        ValueError: If an argument is invalid.

    Example:

    ```python
    keras_micronets.callbacks.Cycle(initial="parent", learning_rate=1e-3)
    ```
    """

    initial: str = "previous"
    mask: Callable[[keras.Model, int, int], None] | None = None
    learning_rate: Any = None
    quantize: float | None = None
    compact: bool = False

    def __post_init__(self) -> None:
        if self.initial not in INITIAL:
            raise ValueError(
                f"Expected `initial` to be one of {INITIAL}. "
                f"Received: initial={self.initial!r}."
            )
        as_learning_rate(self.learning_rate, total_steps=1)
        if self.quantize is not None and not 0.0 <= self.quantize < 1.0:
            raise ValueError(
                "Expected `quantize` in [0, 1), a share of the cycle, or `None`. "
                f"Received: quantize={self.quantize}."
            )


class Parent:
    """Save and restore the weights with which the cycles of a run begin.

    Masks and the ranges of quantisers are included; the states of random number
    generators are not, so that no two cycles use the same noise.

    Args:
        path: The `.npz` file that keeps the weights.
    """

    def __init__(self, path: Path):
        self.path = path

    def save(self, model: keras.Model) -> None:
        """Save the current weights of a model."""
        buffer = io.BytesIO()
        np.savez(buffer, *(ops.convert_to_numpy(weight) for weight in model.weights))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, buffer.getvalue())

    def restore(self, model: keras.Model) -> None:
        """Assign the saved weights to a model."""
        with np.load(self.path, allow_pickle=False) as arrays:
            for weight, array in zip(model.weights, arrays.values(), strict=True):
                weight.assign(array)


def warn_if_untrained(model: keras.Model) -> None:
    """Warn if a model that learners are pruned from has not been trained.

    Training moves biases, scales and statistics, all of which begin as constants. So a
    model is untrained if its optimizer has made no step and all its vectors are
    constant. A model without vectors cannot be told from a trained one.
    """
    optimizer: Any = getattr(model, "optimizer", None)
    if optimizer is not None and int(ops.convert_to_numpy(optimizer.iterations)) > 0:
        return
    vectors = [x for x in plain_variables(model) if len(x.shape) == 1]
    vectors = [x for x in vectors if keras.backend.is_float_dtype(x.dtype)]
    if vectors and all(map(_is_constant, vectors)):
        warnings.warn(
            f"Expected a trained parent. Received: {model.name!r}, whose biases are "
            "those of a new model. Its learners are pruned before they have learned "
            "anything: train it first, or pass `warmup`, the share of the run that "
            "trains it.",
            stacklevel=2,
        )


def _is_constant(vector):
    values = ops.convert_to_numpy(vector)
    is_equal = len(values) > 1 and np.ptp(values) == 0
    return bool(is_equal or np.isin(values, (0, 1)).all())  # recurrent biases have both
