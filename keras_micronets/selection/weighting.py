"""Weights of the members in the mean probability."""

from typing import Any

import numpy as np

from keras_micronets.selection.metrics import likelihoods
from keras_micronets.selection.validation import check_probabilities


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
    combined = np.average(probabilities[selection.indices], axis=0, weights=weights)
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
