"""What the measures take: many learners or one predictor, and ties."""

from typing import Any

import numpy as np

from keras_micronets.selection.validation import as_labels, check_probabilities


def one_or_many(probabilities: Any) -> np.ndarray:
    """Check probabilities of shape `([learners,] samples, classes)`."""
    p = np.asarray(probabilities)
    return check_probabilities(p[None])[0] if p.ndim == 2 else check_probabilities(p)


def checked(probabilities: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Check probabilities as `one_or_many`, and labels that fit them."""
    p = one_or_many(probabilities)
    return p, as_labels(y, p.shape[-1], p.shape[-2])


def one_predictor(probabilities: Any) -> np.ndarray:
    """Check probabilities of shape `(samples, classes)`; return them as `float64`."""
    p = one_or_many(probabilities)
    if p.ndim != 2:
        raise ValueError(
            "Expected probabilities of shape (samples, classes), one predictor. "
            f"Received: shape {p.shape}. Call it once for each learner."
        )
    return p.astype(np.float64)


def mean_of_ties(keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Give all samples of equal keys the mean of their values.

    So whatever is made of values in the order of their keys does not depend on how
    ties were ordered; what is linear in the values becomes its mean over all the
    orders there are.

    Args:
        keys: Array of shape `(samples,)`.
        values: Numbers of shape `(samples,)`.

    Returns:
        Float array of shape `(samples,)`.
    """
    _, group = np.unique(keys, return_inverse=True)
    return (np.bincount(group, weights=values) / np.bincount(group))[group]
