"""How the chosen are combined."""

from typing import Any

import numpy as np

from keras_micronets.edge.combine import RULES
from keras_micronets.selection.metrics import likelihoods
from keras_micronets.selection.selection import Selection
from keras_micronets.selection.validation import check_probabilities


def as_combined(
    selection: Selection, probabilities: Any, y: Any, combination: str
) -> dict[str, Any]:
    """Say by which rule, and with which weights, chosen learners are combined.

    Args:
        selection: The `Selection`.
        probabilities: Array of shape `(learners, samples, classes)`: what the choice
            was made on.
        y: Labels, sparse or one-hot; see `as_labels`.
        combination: `"mean"`, with the weights of the selection; `"weights"`, weights
            fitted anew on these samples by `fit_weights`; `"logit"` or `"vote"`,
            without weights.

    Returns:
        Dictionary of the arguments `rule` and `weights` of `combine`.

    Raises:
        ValueError: If the combination is not known.

    Example:

    ```python
    how = as_combined(selection, probabilities, y, "mean")
    combine(probabilities[selection.indices], **how)
    ```
    """
    if combination not in RULES:
        raise ValueError(
            f"Expected `combination` to be one of {RULES}. "
            f"Received: combination={combination!r}."
        )
    weights = None
    if combination == "weights":
        weights = fit_weights(probabilities[selection.indices], y)
    elif combination == "mean" and np.ptp(selection.weights) > 1e-9:
        combination, weights = "weights", selection.weights
    if weights is not None:
        weights = [float(weight) for weight in weights]
    return {"rule": combination, "weights": weights}


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
