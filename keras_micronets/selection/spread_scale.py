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

    The members' standard deviation says on which samples they differ, not how wrong
    they are together: they share a bias, and the targets have noise. The error is taken
    for normal with the variance `(factor * spread) ** 2 + floor ** 2`, in which the
    floor is the part that members share. Both maximise the likelihood of the errors,
    for each output by itself. For each ratio of floor and factor the best factor is
    known exactly, which leaves a search for one number.

    The scale is returned if the mean Gaussian negative log-likelihood falls by more
    than the standard error of its fall, from that of the spread itself. In both,
    standard deviations below 0.001 of that of the targets are raised to it, since a
    spread may be zero.

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

    References: Levi et al., "Evaluating and Calibrating Uncertainty Prediction in
    Regression Tasks", 2019 (one factor of the deviations). Lakshminarayanan et al.,
    "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles",
    NeurIPS 2017 (noise and spread of the members add up).
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
    columns = zip(variances.T, squares.T, strict=True)
    factors, floors = np.array([fit_variance(*column) for column in columns]).T
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
        # Where the derivative of log(u * shifted) + squares / (u * shifted) is zero.
        factor = max(np.sqrt((squares / shifted).mean()), MIN_FLOOR / ratio)
        return float(factor), float(factor * ratio)

    def loss(pair):
        return gaussian_loss(pair[0] ** 2 * variances + pair[1] ** 2, squares).mean()

    steps = np.log(typical) + np.arange(-12, 12.5, 0.5)
    losses = [loss(of_ratio(step)) for step in steps]
    middle = steps[np.argmin(losses)]
    search = minimize_scalar(
        lambda step: loss(of_ratio(step)),
        bounds=(middle - 0.5, middle + 0.5),
        method="bounded",
    )
    return min(best, of_ratio(middle), of_ratio(search.x), key=loss)
