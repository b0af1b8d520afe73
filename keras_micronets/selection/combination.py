"""Fit the weights of the members, and choose the rule that combines them."""

from typing import Any

import numpy as np

from keras_micronets.edge.combine import rules_of
from keras_micronets.selection.selection import Selection
from keras_micronets.selection.targets import Targets, check_data
from keras_micronets.selection.validation import check_choice

__all__ = ["as_combined", "fit_weights"]


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
            weights fitted on these samples by `fit_weights`; `"logit"`, `"vote"` or,
            for numbers, `"median"`, without weights.

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
    task = y.task if isinstance(y, Targets) else "multiclass"
    check_choice("combination", combination, rules_of(task))
    weights = None
    if combination == "weights":
        weights = fit_weights(probabilities[selection.indices], y)
    elif combination == "mean" and np.ptp(selection.weights) > 1e-9:
        combination, weights = "weights", selection.weights
    if weights is not None:
        weights = [float(weight) for weight in weights]
    return {"rule": combination, "weights": weights}


def fit_weights(probabilities: Any, y: Any, *, n_iterations: int = 200) -> np.ndarray:
    """Fit the weights of a mean by maximum likelihood, or least squares for numbers.

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
    p, targets = check_data(probabilities, y)
    terms = targets.terms(p).reshape(len(p), -1)
    return targets.fit_weights(terms, np.full(len(p), 1 / len(p)), n_iterations)
