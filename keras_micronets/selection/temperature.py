"""Temperature scaling: make an ensemble as sure as it should be."""

from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax

from keras_micronets.selection.metrics import EPSILON, one_or_many, one_predictor
from keras_micronets.selection.validation import as_labels

# Losses, in nats, that differ by less are equal.
_TOLERANCE = 1e-12


def fit_temperature(
    probabilities: Any, y: Any, *, bounds: tuple[float, float] = (0.05, 20.0)
) -> float:
    """Find the temperature that makes the labels most likely.

    The negative log-likelihood of `softmax(log(p) / T)` is convex in `1 / T`, so there
    is one lowest value within the bounds, and the search for it always finds it.
    For an ensemble, take the mean of its members first and fit that: the mean of
    members that are each as sure as they should be is not sure enough.

    Args:
        probabilities: Array of shape `(samples, classes)`: one predictor, or the mean
            of an ensemble. Clipped at `1e-7` before the logarithm.
        y: Labels, sparse or one-hot; see `as_labels`. Not the test data.
        bounds: Pair of positive floats, the lowest and the highest temperature.
            Defaults to `(0.05, 20.0)`.

    Returns:
        Float within the bounds; less than 1 makes predictions surer, more than 1 less
        sure. Where the data sets no limit it is a bound: the lower if the right class
        is always the most probable, the higher if `log(p)` of the right class is no
        higher, on average, than that of all classes. Where no temperature is better
        than 1, as for probabilities that are all equal, it is 1, or the bound nearest
        to it.

    Raises:
        ValueError: If several learners are given, data is bad, or the bounds are not
            positive and in order.

    Example:

    ```python
    p = [[0.9, 0.1]] * 4
    fit_temperature(p, [0, 0, 0, 1])  # 2.0, which makes of 0.9 the 0.75 that it is
    ```

    References: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    Rahaman & Thiery, "Uncertainty Quantification and Deep Ensembles", NeurIPS 2021
    (pool, then calibrate).
    """
    p = one_predictor(probabilities)
    labels = as_labels(y, *p.shape[::-1])
    ends = _check_bounds(bounds)
    logs = _logarithms(p)
    logs -= logs[np.arange(len(labels)), labels, None]

    def loss(log_temperature):
        return logsumexp(logs / np.exp(log_temperature), axis=1).mean()

    search = {"method": "bounded", "options": {"xatol": 1e-8}}
    found = np.exp(minimize_scalar(loss, bounds=np.log(ends), **search).x)
    temperatures = np.array([np.clip(1, *ends), *ends, found])
    losses = np.array([loss(np.log(temperature)) for temperature in temperatures])
    # The first of those that are as good: where the loss is flat, `found` is any.
    return float(temperatures[np.argmax(losses <= losses.min() + _TOLERANCE)])


def apply_temperature(probabilities: Any, temperature: float) -> np.ndarray:
    """Scale the logarithms of probabilities: `softmax(log(p) / T)`.

    Args:
        probabilities: Array of shape `(samples, classes)`, or
            `(learners, samples, classes)`. Clipped at `1e-7` before the logarithm, so
            that zeros become surer or less sure as well.
        temperature: Positive float: 1 changes nothing but zeros, less makes surer,
            more less sure. The most probable class stays.

    Returns:
        Array of `float64` and of the same shape.

    Raises:
        ValueError: If data is bad or `temperature` is not a positive number.

    Example:

    ```python
    apply_temperature([[0.9, 0.1]], 2.0)  # [[0.75, 0.25]]
    ```

    Reference: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """
    if not 0 < temperature < np.inf:
        raise ValueError(f"Expected a positive temperature. Received: {temperature=}.")
    return softmax(_logarithms(one_or_many(probabilities)) / temperature, axis=-1)


def _logarithms(p: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(p, EPSILON, dtype=np.float64))


def _check_bounds(bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = bounds
    if not 0 < low < high < np.inf:
        raise ValueError(
            "Expected bounds of the temperature, positive, the lower one first. "
            f"Received: {bounds=}."
        )
    return low, high
