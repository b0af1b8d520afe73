"""Weights of the members in the mean probability."""

from typing import Any

import numpy as np

from keras_micronets.selection.metrics import likelihoods
from keras_micronets.selection.validation import check_probabilities


def combine(probabilities: Any, weights: Any) -> np.ndarray:
    """Weigh the predictions of the members into one.

    Args:
        probabilities: Array of shape `(members, samples, classes)`.
        weights: Array of shape `(members,)`, summing to one.

    Returns:
        Array of shape `(samples, classes)`: the weighted mean probabilities.

    Raises:
        ValueError: If the probabilities are bad, or there is not one weight a member.

    Example:

    ```python
    combine([[[0.9, 0.1]], [[0.5, 0.5]]], [0.5, 0.5])  # array([[0.7, 0.3]])
    ```
    """
    p, weights = check_probabilities(probabilities), np.asarray(weights, np.float64)
    if weights.shape != (len(p),):
        raise ValueError(
            f"Expected {len(p)} weights, one a member. Received: shape {weights.shape}."
        )
    return np.tensordot(weights, p, axes=1)


def fit_weights(probabilities: Any, y: Any, *, n_iterations: int = 200) -> np.ndarray:
    """Fit the weights of a mean probability that make the labels most likely.

    The negative log-likelihood of the weighted mean is convex in the weights, and
    expectation-maximisation lowers it at every step: from equal weights, the same
    data always gives the same answer, never worse than equal weights.

    Args:
        probabilities: Array of shape `(members, samples, classes)`.
        y: Labels, sparse or one-hot; see `as_labels`. Not the test data.
        n_iterations: Integer. Number of steps. Defaults to `200`.

    Returns:
        Float array of shape `(members,)`, non-negative, summing to one.

    Raises:
        ValueError: If data is bad or `n_iterations` is negative.

    Example:

    ```python
    weights = fit_weights(probabilities[selection.indices], y)
    combined = combine(probabilities[selection.indices], weights)
    ```

    Reference: Dempster, Laird & Rubin, "Maximum Likelihood from Incomplete Data via
    the EM Algorithm", J. R. Stat. Soc. B, 1977 (mixtures with known components).
    """
    if n_iterations < 0:
        raise ValueError(
            f"Expected at least zero iterations. Received: {n_iterations=}."
        )
    right = likelihoods(check_probabilities(probabilities), y)
    weights = np.full(len(right), 1 / len(right))
    for _ in range(n_iterations):
        weights = weights * (right / (weights @ right)).mean(axis=1)
    return weights / weights.sum()
