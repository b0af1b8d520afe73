"""Scale the members' spread to the standard deviation of the ensemble's error."""

from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from keras_micronets.edge.combine import combine
from keras_micronets.edge.tasks import SpreadScale, spread
from keras_micronets.selection.metrics import standard_error
from keras_micronets.selection.targets import Targets

__all__ = ["choose_spread_scale"]

#: Smallest floor, as a share of the standard deviation of the targets.
MIN_FLOOR = 1e-3
# Members that differ less, as a share of the same, agree but for rounding.
_MIN_SPREAD = 1e-6
# In fewer samples, one large error or its absence decides the scale.
_MIN_SAMPLES = 50


def choose_spread_scale(
    predictions: Any,
    y: Any,
    *,
    rule: str = "mean",
    weights: Any = None,
    task: str = "regression",
) -> SpreadScale | None:
    """Fit a scale of the members' spread, and return it only where it pays.

    Members differ less than they err together: they share a bias, and targets have
    noise. The error is taken for normal, with the variance `(factor * spread) ** 2 +
    floor ** 2`. For each output, both maximise the likelihood of the errors.

    The scale is returned if the mean Gaussian negative log-likelihood falls by more
    than the standard error of its fall, from that of the spread itself. As spreads may
    be zero, deviations of less than 0.001 of that of the targets are raised to it.

    Args:
        predictions: Array of shape `(members, samples, *outputs)`.
        y: Targets of shape `(samples, *outputs)`, or `selection.Targets`. Not the test
            data.
        rule, weights: How the members are combined, see `edge.combine`. Default to
            the mean.
        task: `"regression"` or `"reconstruction"`, whose error is the root of the mean
            squared error of each sample. Defaults to `"regression"`.

    Returns:
        An `edge.SpreadScale`; `None` with fewer than 50 samples, and where it does not
        pay.

    Raises:
        ValueError: If the data is invalid or the task has classes.

    Example:

    ```python
    rng = np.random.default_rng(0)
    y, bias = rng.normal(size=(2, 500, 1))
    members = y + 0.4 * bias + 0.1 * rng.normal(size=(5, 500, 1))
    scale = choose_spread_scale(members, y)  # the floor is about 0.4
    ```

    Reference: Levi et al., "Evaluating and Calibrating Uncertainty Prediction in
    Regression Tasks", 2019, which has a factor only.
    """
    targets = y if isinstance(y, Targets) else Targets(y, task)
    if targets.has_classes:
        raise ValueError(
            "Expected the task 'regression' or 'reconstruction'. Received: "
            f"task={targets.task!r}, which has a temperature."
        )
    p, targets = targets.check(predictions)
    combined = combine(p, rule=rule, weights=weights, task=targets.task)
    squares = np.square(targets.terms(combined.astype("float64")))
    variances = np.square(spread(p / targets.scale, weights, task=targets.task))
    if targets.task == "reconstruction":
        squares, variances = squares.mean(axis=1, keepdims=True), variances[:, None]
    if len(squares) < _MIN_SAMPLES:
        return None
    fitted = [*map(fit_variance, variances.T, squares.T)]
    factors, floors = np.array(fitted).T
    before = gaussian_loss(np.maximum(variances, MIN_FLOOR**2), squares)
    after = gaussian_loss(factors**2 * variances + floors**2, squares)
    falls = (before - after).mean(axis=1)
    if not falls.mean() > standard_error(falls):
        return None
    return SpreadScale(
        tuple(factors.tolist()),
        tuple((floors * targets.scale).tolist()),
        gain=float(falls.mean()),
        samples=len(falls),
    )


def gaussian_loss(variances: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Return the negative log-likelihoods, in nats, of errors with these squares."""
    return (np.log(2 * np.pi * variances) + squares / variances) / 2


def fit_variance(variances: np.ndarray, squares: np.ndarray) -> tuple[float, float]:
    """Return factor and floor of `factor**2 * variances + floor**2`, of least loss.

    Args:
        variances: Array of shape `(samples,)`, of the members.
        squares: Array of shape `(samples,)`, squared errors, both in units of the
            variance of the targets.
    """
    best = 0.0, float(max(np.sqrt(squares.mean()), MIN_FLOOR))
    typical = np.sqrt(variances.mean())
    if typical < _MIN_SPREAD:
        return best

    def of_ratio(log_ratio):
        ratio = np.exp(log_ratio)
        shifted = variances + ratio**2
        # Of this ratio, where the derivative of the loss by the factor is zero.
        factor = max(np.sqrt((squares / shifted).mean()), MIN_FLOOR / ratio)
        return float(factor), float(factor * ratio)

    def loss(pair):
        return gaussian_loss(pair[0] ** 2 * variances + pair[1] ** 2, squares).mean()

    def objective(log_ratio):
        return loss(of_ratio(log_ratio))

    middle = min(np.log(typical) + np.arange(-12, 12.5, 0.5), key=objective)
    bounds = (middle - 0.5, middle + 0.5)
    search = minimize_scalar(objective, bounds=bounds, method="bounded")
    return min(best, of_ratio(middle), of_ratio(search.x), key=loss)
