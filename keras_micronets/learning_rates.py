"""Learning rates as functions of progress, from 0 at a cycle's start to 1 at its end.

Any callable from progress to a positive number is one; these have a configuration.
"""

import math

import keras

from keras_micronets.schedules import Schedule


class LearningRate(Schedule):
    """Base class of the learning rates: a pure callable with a configuration."""

    def __call__(self, progress: float) -> float:
        """Return the learning rate at a moment of the cycle."""
        raise NotImplementedError


@keras.saving.register_keras_serializable(package="keras_micronets")
class Steady(LearningRate):
    """One learning rate throughout.

    Args:
        rate: Positive float.

    Raises:
        ValueError: If it is not positive.
    """

    def __init__(self, rate: float):
        self.rate = _check_rate(rate, "rate")

    def __call__(self, progress):
        return self.rate


@keras.saving.register_keras_serializable(package="keras_micronets")
class Cosine(LearningRate):
    """A fall along half a cosine, flat at both ends.

    Args:
        peak: Positive float, the rate at the start.
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

    def __init__(self, peak: float, *, end: float = 0.0):
        self.peak = _check_rate(peak, "peak")
        self.end = _check_share(end, "end")

    def __call__(self, progress):
        left = 0.5 * (1.0 + math.cos(math.pi * progress))
        return self.peak * (self.end + (1.0 - self.end) * left)


@keras.saving.register_keras_serializable(package="keras_micronets")
class OneCycle(LearningRate):
    """A short climb to the peak, then a long fall, both along half a cosine.

    Args:
        peak: Positive float, the highest rate.
        climb: Float in (0, 1), the share of the cycle in which it is reached.
            Defaults to `0.1`.
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
        peak: float,
        *,
        climb: float = 0.1,
        start: float = 0.01,
        end: float = 0.0001,
    ):
        self.peak = _check_rate(peak, "peak")
        self.climb = climb
        self.start = _check_share(start, "start")
        self.end = _check_share(end, "end")
        if not 0.0 < climb < 1.0:
            raise ValueError(
                "Expected `climb` in (0, 1), a share of the cycle. "
                f"Received: climb={climb}."
            )

    def __call__(self, progress):
        if progress < self.climb:
            return self._between(self.start, progress / self.climb)
        return self._between(self.end, (1.0 - progress) / (1.0 - self.climb))

    def _between(self, low, done):
        risen = 0.5 * (1.0 - math.cos(math.pi * done))
        return self.peak * (low + (1.0 - low) * risen)


@keras.saving.register_keras_serializable(package="keras_micronets")
class Steps(LearningRate):
    """Learning rates that follow each other, each for an equal share of the cycle.

    Args:
        rates: Sequence of positive floats.

    Raises:
        ValueError: If there is none, or one is not positive.

    Example:

    ```python
    rate = keras_micronets.learning_rates.Steps([0.01, 0.001])
    rate(0.0), rate(0.49), rate(0.5), rate(1.0)  # 0.01, 0.01, 0.001, 0.001
    ```
    """

    def __init__(self, rates):
        self.rates = [_check_rate(rate, "rates") for rate in rates]
        if not self.rates:
            raise ValueError("Expected at least one rate. Received: rates=[].")

    def __call__(self, progress):
        index = int(progress * len(self.rates))
        return self.rates[min(index, len(self.rates) - 1)]


def _check_rate(value, name):
    if not value > 0:
        raise ValueError(
            f"Expected a positive learning rate. Received: {name}={value}."
        )
    return value


def _check_share(value, name):
    if not 0.0 <= value <= 1.0:
        raise ValueError(
            f"Expected a share of the peak in [0, 1]. Received: {name}={value}."
        )
    return value
