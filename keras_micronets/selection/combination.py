"""Fit the weights of the members, and choose the rule that combines them."""

from typing import Any

import numpy as np

from keras_micronets.edge.combine import RULES
from keras_micronets.selection.metrics import likelihoods
from keras_micronets.selection.selection import Selection
from keras_micronets.selection.validation import check_choice, check_probabilities

__all__ = ["as_combined", "fit_weights", "mixture_weights"]


def as_combined(
    selection: Selection, probabilities: Any, y: Any, combination: str
) -> dict[str, Any]:
    """Return the rule and the weights with which to combine the chosen learners.

    Args:
        selection: The `Selection`.
        probabilities: Array of shape `(learners, samples, classes)` that the selection
            was made on.
        y: Labels, sparse or one-hot; see `as_labels`.
        combination: `"mean"`, with the weights of the selection; `"weights"`, with
            weights fitted on these samples by `fit_weights`; `"logit"` or `"vote"`,
            without weights.

    Returns:
        Dictionary of the arguments `rule` and `weights` of `combine`.

    Raises:
        ValueError: If the combination is unknown.

    Example:

    ```python
    selection = kmn.selection.greedy(probabilities, y, n_members=4)
    rule = as_combined(selection, probabilities, y, "mean")
    kmn.selection.combine(probabilities[selection.indices], **rule)
    ```
    """
    check_choice("combination", combination, RULES)
    weights = None
    if combination == "weights":
        weights = fit_weights(probabilities[selection.indices], y)
    elif combination == "mean" and np.ptp(selection.weights) > 1e-9:
        combination, weights = "weights", selection.weights
    if weights is not None:
        weights = [float(weight) for weight in weights]
    return {"rule": combination, "weights": weights}


def fit_weights(probabilities: Any, y: Any, *, n_iterations: int = 200) -> np.ndarray:
    """Fit the weights of a mean probability by maximum likelihood.

    The negative log-likelihood of the weighted mean is convex in the weights, and
    expectation-maximisation lowers it at every step. It starts from equal weights, so
    the result is deterministic and never worse than equal weights.

    Args:
        probabilities: Array of shape `(members, samples, classes)`.
        y: Labels, sparse or one-hot; see `as_labels`. Not the test data.
        n_iterations: Integer, the number of steps. Defaults to `200`.

    Returns:
        Float array of shape `(members,)`, non-negative, summing to one.

    Raises:
        ValueError: If the data is invalid or `n_iterations` is negative.

    Example:

    ```python
    selection = kmn.selection.greedy(probabilities, y, n_members=4)
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
    return mixture_weights(right, np.full(len(right), 1 / len(right)), n_iterations)


def mixture_weights(
    likelihoods: np.ndarray, start: np.ndarray, n_iterations: int
) -> np.ndarray:
    """Raise the likelihood of a mixture by steps of expectation-maximisation.

    Args:
        likelihoods: Float array of shape `(members, samples)`, positive.
        start: Float array of shape `(members,)`, the weights to start from.
        n_iterations: Integer, the number of steps.
    """
    weights = start
    for _ in range(n_iterations):
        weights = weights * (likelihoods @ (1 / (weights @ likelihoods)))
        weights /= weights.sum()
    return weights
