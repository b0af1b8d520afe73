"""How the chosen are combined."""

from typing import Any

import numpy as np

from keras_micronets.edge.combine import RULES
from keras_micronets.selection.selection import Selection
from keras_micronets.selection.weighting import fit_weights


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
