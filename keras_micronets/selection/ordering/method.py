"""Which of several numbers are the lowest, whatever rounding makes of equal ones."""

from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from keras_micronets.selection.candidates import Candidates
from keras_micronets.selection.selection import Selection

# Sums of the same terms in another order differ by less, losses that matter by more.
_ROUNDING = 1e-12


def lowest(values: np.ndarray) -> np.ndarray:
    """Say which values are the lowest; those that differ by rounding alone are equal.

    Args:
        values: Float array of shape `(candidates,)`, of the order of one.

    Returns:
        Boolean array of the same shape; its `argmax()` is the first that is lowest.
    """
    return values <= values.min() + _ROUNDING


def top_k(
    probabilities: Any,
    y: Any,
    n_members: int = 4,
    *,
    by: str = "accuracy",
    random_state: Any = None,
) -> Selection:
    """Keep the best learners, whatever they have in common.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`.
        y: Labels, sparse or one-hot; see `as_labels`.
        n_members: Integer. How many to keep. Defaults to `4`.
        by: `"accuracy"`, ties to the lower negative log-likelihood, or `"loss"`, the
            lower negative log-likelihood. Defaults to `"accuracy"`.
        random_state: Not used; here because all methods share one signature.

    Returns:
        A `Selection` with equal weights.

    Raises:
        ValueError: If there are fewer learners than members, `by` is unknown, or data
            is bad.

    Example:

    ```python
    top_k([[[0.4, 0.6]], [[0.9, 0.1]]], [0], n_members=1).indices  # array([1])
    ```
    """
    if by not in ("accuracy", "loss"):
        raise ValueError(f"Expected by='accuracy' or by='loss'. Received: {by=}.")
    found = Candidates(probabilities, y, n_members)
    order = range(len(found))
    if by == "loss":
        order = np.argsort(found.losses, kind="stable")
    return found.select(order[: found.n_members], method=f"top_k by {by}")


def random_k(
    probabilities: Any, y: Any, n_members: int = 4, *, random_state: Any = None
) -> Selection:
    """Keep learners drawn at random.

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
    found = Candidates(probabilities, y, n_members)
    random = check_random_state(random_state)
    drawn = random.choice(len(found), found.n_members, replace=False)
    return found.select(drawn, method="random_k")
