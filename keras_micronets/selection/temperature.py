"""Temperature scaling: correct the confidence of an ensemble."""

from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from keras_micronets.edge.combine import EPSILON, scale_logarithms
from keras_micronets.selection.metrics import (
    checked_predictor,
    likelihoods,
    negative_log_likelihood,
    one_or_many,
    standard_error,
)

__all__ = [
    "apply_temperature",
    "calibrated_negative_log_likelihood",
    "choose_temperature",
    "fit_temperature",
]

# Losses, in nats, that differ by less are equal.
_TOLERANCE = 1e-12
# In fewer samples, one confident error or its absence decides the temperature.
_MIN_SAMPLES = 50


def fit_temperature(
    probabilities: Any, y: Any, *, bounds: tuple[float, float] = (0.05, 20.0)
) -> float:
    """Find the temperature of the lowest negative log-likelihood.

    The negative log-likelihood of `softmax(log(p) / T)` is convex in `1 / T`, so there
    is one minimum within the bounds, and the search always finds it. For an ensemble,
    average its members first and fit the mean: the mean of calibrated members is
    underconfident.

    Args:
        probabilities: Array of shape `(samples, classes)`: one predictor, or the mean
            of an ensemble. Clipped at `1e-7` before the logarithm.
        y: Labels, sparse or one-hot; see `as_labels`. Not the test data.
        bounds: Pair of positive floats, the lowest and the highest temperature.
            Defaults to `(0.05, 20.0)`.

    Returns:
        Float within the bounds: below 1 the predictions become more confident, above 1
        less. Where the data sets no limit it is a bound: the lower one if the right
        class is always the most probable, the upper one if `log(p)` of the right class
        is on average no higher than that of all classes. Where no temperature is better
        than 1, as for uniform probabilities, it is 1, or the bound nearest to it.

    Raises:
        ValueError: If several learners are given, the data is invalid, or the bounds
            are not positive and in ascending order.

    Example:

    ```python
    p = [[0.9, 0.1]] * 4
    fit_temperature(p, [0, 0, 0, 1])  # 2.0, which scales 0.9 to the actual 0.75
    ```

    References: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    Rahaman & Thiery, "Uncertainty Quantification and Deep Ensembles", NeurIPS 2021
    (pool, then calibrate).
    """
    p, labels = checked_predictor(probabilities, y)
    ends = _check_bounds(bounds)
    logs = np.log(np.maximum(p, EPSILON))
    logs -= logs[np.arange(len(labels)), labels, None]

    def loss(log_temperature: Any) -> Any:
        return logsumexp(logs / np.exp(log_temperature), axis=1).mean()

    options = {"xatol": 1e-8}
    search = minimize_scalar(
        loss, bounds=np.log(ends), method="bounded", options=options
    )
    temperatures = np.array([np.clip(1, *ends), *ends, np.exp(search.x)])
    losses = np.array([loss(np.log(temperature)) for temperature in temperatures])
    # The first of the best: where the loss is flat, the search stops anywhere.
    return float(temperatures[np.argmax(losses <= losses.min() + _TOLERANCE)])


def choose_temperature(probabilities: Any, y: Any, *, default: float = 1.0) -> float:
    """Fit a temperature, and return it only where it demonstrably pays.

    The temperature of `fit_temperature` is returned if the mean loss falls by more than
    the standard error of its fall. Otherwise the default stays: also with fewer than 50
    samples, and where the data sets no limit, as when every prediction is right.

    Args:
        probabilities: Array of shape `(samples, classes)`: one predictor, or the mean
            of an ensemble.
        y: Labels, sparse or one-hot; see `as_labels`. Not the test data.
        default: Float, the temperature in use so far. Defaults to `1.0`, none.

    Returns:
        Float, the fitted temperature or the default.

    Raises:
        ValueError: If several learners are given or the data is invalid.

    Example:

    ```python
    choose_temperature([[0.9, 0.1]] * 400, [0, 0, 0, 1] * 100)  # 2.0
    choose_temperature([[0.9, 0.1]] * 4, [0, 0, 0, 1])  # 1.0: too few samples
    ```
    """
    p, labels = checked_predictor(probabilities, y)
    bounds = (0.05, 20.0)
    temperature = fit_temperature(p, labels, bounds=bounds)
    if len(labels) < _MIN_SAMPLES or temperature in bounds:
        return default
    before, after = (
        np.log(likelihoods(apply_temperature(p, t), labels))
        for t in (default, temperature)
    )
    falls = after - before
    return temperature if falls.mean() > standard_error(falls) else default


def apply_temperature(probabilities: Any, temperature: float) -> np.ndarray:
    """Scale the logarithms of probabilities: `softmax(log(p) / T)`.

    Args:
        probabilities: Array of shape `(samples, classes)`, or
            `(learners, samples, classes)`. Clipped at `1e-7` before the logarithm, so
            that zeros are scaled as well.
        temperature: Positive float: below 1 the probabilities become more confident,
            above 1 less; 1 changes nothing but zeros. The most probable class stays.

    Returns:
        Array of `float64` and of the same shape.

    Raises:
        ValueError: If the data is invalid or `temperature` is not a positive number.

    Example:

    ```python
    apply_temperature([[0.9, 0.1]], 2.0)  # [[0.75, 0.25]]
    ```

    Reference: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """
    if not 0 < temperature < np.inf:
        raise ValueError(f"Expected a positive temperature. Received: {temperature=}.")
    return scale_logarithms(np.float64(one_or_many(probabilities)), temperature)


def calibrated_negative_log_likelihood(
    probabilities: Any, y: Any, *, held_out: tuple[Any, Any]
) -> np.ndarray:
    """Return the negative log-likelihood after temperature scaling, in nats.

    One temperature per predictor is fitted on the held-out samples and applied to the
    others. Predictors are then compared by what their probabilities tell apart, not by
    their confidence, which a single number corrects.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`, or
            `(samples, classes)` for one predictor.
        y: Labels, sparse or one-hot; see `as_labels`.
        held_out: Pair of probabilities and labels of other samples: predicted by the
            same learners, in the same order.

    Returns:
        Array of shape `(learners,)`; a scalar for one predictor. Lower is better.

    Raises:
        ValueError: If the data is invalid, or the held-out probabilities are of another
            number of learners or classes.

    Example:

    ```python
    held_out = [[0.9, 0.1]] * 4, [0, 0, 0, 1]  # the temperature is 2.0
    calibrated_negative_log_likelihood([[0.9, 0.1]], [0], held_out=held_out)  # 0.287...
    ```

    Reference: Ashukha et al., "Pitfalls of In-Domain Uncertainty Estimation and
    Ensembling in Deep Learning", ICLR 2020.
    """
    p, (q, labels) = one_or_many(probabilities), held_out
    q = one_or_many(q)
    if p.shape[:-2] != q.shape[:-2] or p.shape[-1] != q.shape[-1]:
        raise ValueError(
            "Expected held-out probabilities of the same learners and classes. "
            f"Received: shapes {p.shape} and {q.shape}."
        )
    if p.ndim == 2:
        scaled = apply_temperature(p, fit_temperature(q, labels))
        return negative_log_likelihood(scaled, y)
    pairs = zip(p, q, strict=True)
    losses = [
        calibrated_negative_log_likelihood(test, y, held_out=(fit, labels))
        for test, fit in pairs
    ]
    return np.array(losses)


def _check_bounds(bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = bounds
    if not 0 < low < high < np.inf:
        raise ValueError(
            "Expected positive bounds of the temperature, the lower one first. "
            f"Received: {bounds=}."
        )
    return low, high
