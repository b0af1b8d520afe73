"""Define the tasks: what a model's outputs are, and how they become predictions."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = [
    "CLASS_TASKS",
    "PER_LABEL",
    "TASKS",
    "SpreadScale",
    "normalize",
    "sigmoid",
    "softmax",
    "spread",
    "to_columns",
    "to_predictions",
]

#: `"multiclass"`: probabilities of classes that exclude each other. `"binary"`: the
#: probability of one event. `"multilabel"`: the probability of each of several labels.
#: `"regression"`: numbers. `"reconstruction"`: the inputs, as autoencoders return them.
TASKS = ("multiclass", "binary", "multilabel", "regression", "reconstruction")
#: The tasks that predict probabilities.
CLASS_TASKS = ("multiclass", "binary", "multilabel")
#: The tasks whose outputs are each the probability of a label.
PER_LABEL = ("binary", "multilabel")


def to_predictions(
    outputs: np.ndarray,
    *,
    task: str = "multiclass",
    from_logits: bool = False,
    scale: float = 0.0,
) -> np.ndarray:
    """Return the predictions of a model for its outputs.

    Args:
        outputs: `float32` array of shape `(samples, *outputs)`.
        task: One of `TASKS`. Defaults to `"multiclass"`.
        from_logits: Whether the outputs are logits. Defaults to `False`.
        scale: Step that they were rounded to. Defaults to `0.0`, not rounded.

    Returns:
        Probabilities for tasks with classes; for others the outputs.
    """
    if task == "multiclass":
        return softmax(outputs) if from_logits else normalize(outputs, scale)
    if task in PER_LABEL and from_logits:
        return sigmoid(outputs)
    return outputs


def to_columns(probabilities: Any, xp: Any = np) -> Any:
    """Return the columns `[1 - p, p]`, along a new last axis.

    Args:
        probabilities: Array of any shape.
        xp: Namespace of the array functions. Defaults to `numpy`.
    """
    return xp.stack([1 - probabilities, probabilities], axis=-1)


def spread(
    predictions: np.ndarray, weights: Any = None, *, task: str = "regression"
) -> np.ndarray:
    """Return the standard deviation of the members' predictions.

    It is a measure of the uncertainty that more training data would remove: where
    members differ, they had too few similar samples.

    Args:
        predictions: Array of shape `(members, samples, *outputs)`.
        weights: One non-negative weight per member. Defaults to `None`, equal ones.
        task: One of `TASKS`; a reconstruction has the mean spread of its values.
            Defaults to `"regression"`.

    Returns:
        Array of shape `(samples, *outputs)`; `(samples,)` for a reconstruction.

    Example:

    ```python
    from keras_micronets.edge import spread

    spread(np.array([[[1.0]], [[3.0]]]))  # [[1.0]]
    ```
    """
    mean = np.average(predictions, axis=0, weights=weights)
    variance = np.average((predictions - mean) ** 2, axis=0, weights=weights)
    if task == "reconstruction":
        variance = variance.reshape(len(variance), -1).mean(axis=1)
    return np.sqrt(variance)


@dataclass(frozen=True)
class SpreadScale:
    """Define how the members' spread becomes the standard deviation of the error.

    Calling it with an array that `spread` returned returns
    `sqrt((factor * spread) ** 2 + floor ** 2)`.

    Args:
        factors: One non-negative number per output; one for a reconstruction.
        floors: As many non-negative numbers, in the units of the outputs: the error
            where members agree.
        gain: Nats by which it lowered the Gaussian negative log-likelihood of the
            samples on which it was chosen. Defaults to `0.0`.
        samples: Number of these samples. Defaults to `0`.
    """

    factors: tuple[float, ...]
    floors: tuple[float, ...]
    gain: float = 0.0
    samples: int = 0

    def __post_init__(self) -> None:
        numbers = (*self.factors, *self.floors, self.samples, abs(self.gain))
        is_valid = all(0 <= number < math.inf for number in numbers)
        if not (is_valid and 0 < len(self.factors) == len(self.floors)):
            raise ValueError(
                "Expected as many floors as factors, all finite and not negative. "
                f"Received: {self}."
            )

    def __call__(self, spread: np.ndarray) -> np.ndarray:
        shape = spread.shape[1:]
        factors, floors = (
            np.reshape(self.factors, shape),
            np.reshape(self.floors, shape),
        )
        return np.hypot(factors * spread, floors).astype(spread.dtype)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the softmax over the last axis."""
    values = logits - np.maximum.reduce(logits, axis=-1, keepdims=True)
    np.exp(values, out=values)
    values /= np.add.reduce(values, axis=-1, keepdims=True)
    return values


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return the logistic function, without an overflow for any logit."""
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1 / (1 + small), small / (1 + small))


def normalize(outputs: np.ndarray, scale: float) -> np.ndarray:
    """Scale rows of rounded probabilities to sum to one.

    Args:
        outputs: Array of shape `(samples, classes)`.
        scale: Step that they were rounded to, or 0 if they were not rounded.
    """
    # Only errors that rounding explains are corrected: a row further from one is not
    # a row of probabilities, and later checks must still see that.
    total = outputs.sum(axis=-1, keepdims=True)
    rounded = (np.abs(total - 1) <= outputs.shape[-1] * scale) & (total > 0)
    return outputs / np.where(rounded, total, np.float32(1))
