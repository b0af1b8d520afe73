"""Tell anomalies from normal samples by the error of their reconstruction."""

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["Alarm", "choose_alarm", "reconstruction_error"]


@dataclass(frozen=True)
class Alarm:
    """Define which samples are anomalies: those with a score above a threshold.

    Args:
        threshold: The highest score of a normal sample.
        false_alarm_rate: Share of normal samples with a higher score, at most.
        samples: Number of normal samples on which the threshold was chosen.
    """

    threshold: float
    false_alarm_rate: float
    samples: int

    def __post_init__(self) -> None:
        if not (
            0 <= self.threshold < math.inf
            and 0 < self.false_alarm_rate < 1
            and self.samples > 0
        ):
            raise ValueError(
                "Expected a finite threshold of at least zero, a false-alarm rate "
                f"between 0 and 1, and at least one sample. Received: {self}."
            )


def choose_alarm(scores: np.ndarray, false_alarm_rate: float) -> Alarm:
    """Choose the threshold of an alarm on held-out normal samples.

    The threshold is the score of rank `ceil((n + 1) * (1 - rate))` among `n` samples.
    A new normal sample then raises a false alarm with a probability of at most the
    rate, on average over the choice of the held-out samples.

    Args:
        scores: Array of shape `(samples,)`, such as `reconstruction_error` returns.
            The samples are normal, and were used neither for training nor for tests.
        false_alarm_rate: Float between 0 and 1, the wanted share of false alarms.

    Raises:
        ValueError: If there are fewer than `1 / rate - 1` samples, which cannot show
            such a low rate, or a score is not finite.

    Example:

    ```python
    from keras_micronets.edge import choose_alarm

    choose_alarm(np.arange(100.0), 0.05).threshold  # 95.0
    ```

    Reference: Laxhammar and Falkman, "Conformal Prediction for Distribution-Independent
    Anomaly Detection in Streaming Vessel Data", 2010.
    """
    scores = np.sort(np.asarray(scores, "float64"))
    if scores.ndim != 1 or not np.isfinite(scores).all():
        raise ValueError(
            "Expected finite scores of shape (samples,). Received: shape "
            f"{scores.shape}, {int((~np.isfinite(scores)).sum())} of them not finite."
        )
    if not 0 < false_alarm_rate < 1:
        raise ValueError(
            "Expected a false-alarm rate between 0 and 1. Received: "
            f"false_alarm_rate={false_alarm_rate}."
        )
    # Rounded, since (n + 1) * (1 - rate) may exceed an integer by its last bit.
    rank = math.ceil(round((len(scores) + 1) * (1 - false_alarm_rate), 9))
    if rank > len(scores):
        needed = math.ceil(round(1 / false_alarm_rate - 1, 9))
        raise ValueError(
            f"Expected at least {needed} normal samples for a false-alarm rate of "
            f"{false_alarm_rate:g}. Received: {len(scores)}."
        )
    return Alarm(float(scores[rank - 1]), float(false_alarm_rate), len(scores))


def reconstruction_error(x: np.ndarray, reconstructed: np.ndarray) -> np.ndarray:
    """Return the mean squared error of each sample, `(samples,)`.

    Args:
        x: The inputs of the models, `(samples, *shape)`.
        reconstructed: Their reconstruction, of the same shape.
    """
    difference = np.asarray(x, "float32") - reconstructed
    return np.square(difference).reshape(len(difference), -1).mean(axis=1)
