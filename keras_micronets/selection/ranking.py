"""The controls that any other way of choosing has to beat."""

from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from keras_micronets.selection.metrics import accuracy, negative_log_likelihood
from keras_micronets.selection.selection import Selection
from keras_micronets.selection.validation import (
    as_labels,
    check_n_members,
    check_probabilities,
)


def rank(probabilities: Any, y: Any) -> np.ndarray:
    """Rank learners by accuracy.

    Ties go to the lower negative log-likelihood, then to the lower index.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`.
        y: Labels, sparse or one-hot; see `as_labels`.

    Returns:
        Integer array of shape `(learners,)`: the rank of each learner, the best `0`.

    Example:

    ```python
    rank([[[0.4, 0.6]], [[0.9, 0.1]]], [0])  # array([1, 0])
    ```
    """
    p = check_probabilities(probabilities)
    order = np.lexsort((negative_log_likelihood(p, y), -accuracy(p, y)))
    return np.argsort(order)


def top_k(probabilities: Any, y: Any, n_members: int = 4) -> Selection:
    """Keep the most accurate learners, whatever they have in common.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`.
        y: Labels, sparse or one-hot; see `as_labels`.
        n_members: Integer. How many to keep. Defaults to `4`.

    Returns:
        A `Selection` with equal weights.

    Raises:
        ValueError: If there are fewer learners than members, or data is bad.

    Example:

    ```python
    top_k([[[0.4, 0.6]], [[0.9, 0.1]]], [0], n_members=1).indices  # array([1])
    ```
    """
    p = check_probabilities(probabilities)
    n_members = check_n_members(n_members, len(p))
    best = np.argsort(rank(p, y))[:n_members]
    return Selection.uniform(best, np.zeros(len(p), int), method="top_k")


def random_k(
    probabilities: Any, y: Any, n_members: int = 4, *, random_state: Any = None
) -> Selection:
    """Keep learners drawn at random, without looking at what they predict.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`.
        y: Labels, sparse or one-hot; see `as_labels`.
        n_members: Integer. How many to keep. Defaults to `4`.
        random_state: Integer, `numpy.random.RandomState` or `None`, as in
            scikit-learn. Defaults to `None`, which differs from call to call.

    Returns:
        A `Selection` with equal weights.

    Raises:
        ValueError: If there are fewer learners than members, or data is bad.

    Example:

    ```python
    random_k(probabilities, y, n_members=4, random_state=0).indices
    ```
    """
    p = check_probabilities(probabilities)
    as_labels(y, p.shape[2], p.shape[1])
    n_members = check_n_members(n_members, len(p))
    drawn = check_random_state(random_state).choice(len(p), n_members, replace=False)
    return Selection.uniform(drawn, np.zeros(len(p), int), method="random_k")
