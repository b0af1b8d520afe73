"""Learning rates as functions of progress, from 0 at the start of a cycle to 1.

Where a learning rate is expected, three things are accepted: a positive float; any
callable from progress to a rate, such as the classes of this module; and a
`keras.optimizers.schedules.LearningRateSchedule`, which is called with the number of
steps since the start of the cycle.

Without a peak, the classes of this module return shares of the learning rate that the
optimizer was compiled with, so that they fit any optimizer. The constants are the
published rates, for those who use the optimizer in their name.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from keras_micronets._serialization import Configurable, serializable
from keras_micronets.schedules import is_keras_schedule

__all__ = [
    "FREE_TICKETS_SGD",
    "PRUNE2EDGE_ADAM",
    "PRUNE_AND_TUNE_SGD",
    "SNAPSHOT_SGD",
    "Cosine",
    "LearningRate",
    "OneCycle",
    "PiecewiseConstant",
]

# Peaks for `LearnerCycles.free_tickets`, `prune2edge`, `prune_and_tune` and `snapshot`.
FREE_TICKETS_SGD = 0.1
PRUNE2EDGE_ADAM = 1e-5
PRUNE_AND_TUNE_SGD = 0.1
SNAPSHOT_SGD = 0.2


class LearningRate(Configurable):
    """Base class of the learning rates: a pure callable with a configuration."""

    @property
    def is_relative(self) -> bool:
        """Whether its values are shares of the compiled learning rate."""
        return getattr(self, "peak", 1.0) is None

    def __call__(self, progress: float) -> float:
        """Return the learning rate at a progress in [0, 1] of the cycle."""
        raise NotImplementedError


@serializable()
class Cosine(LearningRate):
    """Decrease the learning rate along half a cosine, flat at both ends.

    Args:
        peak: Positive float, the rate at the start. `None` for the learning rate that
            the optimizer was compiled with. Defaults to `None`.
        end: Float in [0, 1], the share of the peak that is left at the end.
            Defaults to `0.0`.

    Raises:
        ValueError: If an argument lies outside its range.

    Example:

    ```python
    rate = keras_micronets.learning_rates.Cosine(0.1)
    rate(0.0), rate(0.5), rate(1.0)  # 0.1, 0.05, 0.0
    ```

    Reference: Loshchilov and Hutter 2017, "SGDR: Stochastic Gradient Descent with
    Warm Restarts".
    """

    def __init__(self, peak: float | None = None, *, end: float = 0.0):
        self.peak = _check_peak(peak)
        self.end = _check_share(end, "end")

    def __call__(self, progress: float) -> float:
        left = 0.5 * (1.0 + math.cos(math.pi * progress))
        return (self.peak or 1.0) * (self.end + (1.0 - self.end) * left)


@serializable()
class OneCycle(LearningRate):
    """Increase the learning rate to a peak quickly, then decrease it slowly.

    Both parts follow half a cosine.

    Args:
        peak: Positive float, the highest rate. `None` for the learning rate that the
            optimizer was compiled with. Defaults to `None`.
        climb: Float in (0, 1), the share of the cycle before the peak. Defaults to
            `0.1`.
        start: Float in [0, 1], the share of the peak at the start. Defaults to
            `0.01`.
        end: Float in [0, 1], the share of the peak at the end. Defaults to
            `0.0001`.

    Raises:
        ValueError: If an argument lies outside its range.

    Reference: Smith and Topin 2018, "Super-Convergence: Very Fast Training of
    Neural Networks Using Large Learning Rates".
    """

    def __init__(
        self,
        peak: float | None = None,
        *,
        climb: float = 0.1,
        start: float = 0.01,
        end: float = 0.0001,
    ):
        self.peak = _check_peak(peak)
        self.climb = climb
        self.start = _check_share(start, "start")
        self.end = _check_share(end, "end")
        if not 0.0 < climb < 1.0:
            raise ValueError(
                "Expected `climb` in (0, 1), a share of the cycle. "
                f"Received: climb={climb}."
            )

    def __call__(self, progress: float) -> float:
        if progress < self.climb:
            return self._between(self.start, progress / self.climb)
        return self._between(self.end, (1.0 - progress) / (1.0 - self.climb))

    def _between(self, low, done):
        risen = 0.5 * (1.0 - math.cos(math.pi * done))
        return (self.peak or 1.0) * (low + (1.0 - low) * risen)


@serializable("Steady", "Steps")
class PiecewiseConstant(LearningRate):
    """Apply several learning rates in turn, each for an equal share of the cycle.

    Args:
        rates: Sequence of positive floats.
        relative: Boolean, whether the rates are shares of the learning rate that the
            optimizer was compiled with. Defaults to `False`.

    Raises:
        ValueError: If it is empty, or a rate is not positive.

    Example:

    ```python
    rate = keras_micronets.learning_rates.PiecewiseConstant([0.01, 0.001])
    rate(0.0), rate(0.49), rate(0.5), rate(1.0)  # 0.01, 0.01, 0.001, 0.001
    ```
    """

    def __init__(self, rates: Sequence[float], *, relative: bool = False):
        self.relative = relative
        self.rates = [_check_rate(rate, "rates") for rate in rates]
        if not self.rates:
            raise ValueError("Expected at least one rate. Received: rates=[].")

    @property
    def is_relative(self) -> bool:
        return self.relative

    def __call__(self, progress: float) -> float:
        index = int(progress * len(self.rates))
        return self.rates[min(index, len(self.rates) - 1)]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PiecewiseConstant":
        # Version 0.1.0 saved a single learning rate as `Steady(rate)`.
        return cls([config["rate"]]) if "rate" in config else cls(**config)


def as_learning_rate(
    rate: Any, total_steps: int | None, compiled: float = 1.0
) -> Callable[[float], float] | None:
    """Return a learning rate as a callable from progress; `None` stays `None`.

    Args:
        rate: A positive float, a callable from progress to a rate, a
            `keras.optimizers.schedules.LearningRateSchedule`, or `None`.
        total_steps: Integer, the steps between progress 0 and 1, which Keras's
            schedules need; `None` if they are not known.
        compiled: Float, the learning rate that the optimizer was compiled with.
            Defaults to `1.0`.

    Raises:
        ValueError: If the rate is none of the above, negative or not finite at a whole
            per cent of the progress, or a Keras schedule is given and the steps are
            not known.
    """
    if rate is None:
        return None
    function = _by_progress(rate, total_steps, compiled)
    for percent in range(101):
        value = float(function(percent / 100))
        if not 0.0 <= value < math.inf:
            raise ValueError(
                "Expected a learning rate that is 0 or more and finite. Received: "
                f"{rate!r}, which is {value} at {percent} % of the progress."
            )
    return function


def _by_progress(rate: Any, total_steps, compiled) -> Callable[[float], float]:
    if is_keras_schedule(rate):
        if total_steps is None:
            raise ValueError(
                "Expected a run of known length, since a Keras learning rate schedule "
                "counts steps. Pass `steps_per_epoch` to `fit`, or use "
                f"keras_micronets.learning_rates. Received: {rate!r}."
            )
        return lambda progress: float(rate(round(progress * total_steps)))
    if isinstance(rate, LearningRate) and rate.is_relative:
        return lambda progress: compiled * rate(progress)
    if callable(rate):
        function: Any = rate
        return function
    _check_rate(rate, "learning_rate")
    return lambda progress: rate


def _check_peak(value):
    return None if value is None else _check_rate(value, "peak")


def _check_rate(value, name):
    if isinstance(value, (str, bool)) or not value > 0:
        raise ValueError(
            f"Expected a positive learning rate. Received: {name}={value!r}."
        )
    return value


def _check_share(value, name):
    if not 0.0 <= value <= 1.0:
        raise ValueError(
            f"Expected a share of the peak in [0, 1]. Received: {name}={value}."
        )
    return value
