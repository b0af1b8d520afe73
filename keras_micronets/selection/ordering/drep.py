"""Ensembles that grow by learners that contradict them."""

import math
from typing import Any

import numpy as np

from keras_micronets.selection.candidates import Candidates
from keras_micronets.selection.ordering._tables import look_up
from keras_micronets.selection.selection import Selection


def drep(
    probabilities: Any,
    y: Any,
    n_members: int = 4,
    *,
    rho: float = 0.4,
    random_state: Any = None,
) -> Selection:
    """Add the best of those learners that agree least with the members so far.

    The most accurate learner comes first. Then, one after the other: of those left,
    the share `rho` whose predictions agree least with the members' vote, and of these
    the one with which the vote is wrong the least. Ties go to the most accurate; a
    vote's tie goes to the lower class. The authors, who have two classes, stop when
    the error falls no more; here, `n_members` are kept.

    The cost is O(members x learners x samples).

    Args:
        probabilities: Array of shape `(learners, samples, classes)`.
        y: Labels, sparse or one-hot; see `as_labels`.
        n_members: Integer. How many to keep. Defaults to `4`.
        rho: Float in `(0, 1]`. The share of learners that are looked at: at `1` only
            the error counts. Defaults to `0.4`; the authors' range is 0.2 to 0.5.
        random_state: Not used; here because all methods share one signature.

    Returns:
        A `Selection` with equal weights.

    Raises:
        ValueError: If there are fewer learners than members, `rho` is out of range, or
            data is bad.

    Example:

    ```python
    p = [[[0.9, 0.1], [0.8, 0.2]], [[0.9, 0.1], [0.7, 0.3]], [[0.4, 0.6], [0.1, 0.9]]]
    drep(p, [0, 1], n_members=2).indices  # array([1, 2])
    ```

    Reference: Li, Yu & Zhou, "Diversity Regularized Ensemble Pruning", ECML PKDD 2012.
    """
    if not 0 < rho <= 1:
        raise ValueError(f"Expected rho above 0 and up to 1. Received: {rho=}.")
    found = Candidates(probabilities, y, n_members)
    chosen, left = [0], np.arange(1, len(found))
    votes = found.votes_of(chosen)
    while len(chosen) < found.n_members:
        different = _least_agreeing(found, votes, left, rho)
        right = look_up(
            _right_with_one_more(votes, found.y), found.predictions[different]
        )
        chosen.append(different[right.argmax()])
        votes += found.votes_of(chosen[-1:])
        left = left[left != chosen[-1]]
    return found.select(chosen, method="drep")


def _least_agreeing(
    found: Candidates, votes: np.ndarray, left: np.ndarray, rho: float
) -> np.ndarray:
    same = found.predictions[left] == votes.argmax(axis=1)
    ranked = np.argsort(same.sum(axis=1), kind="stable")
    how_many = math.ceil(round(rho * len(left), 9))
    return np.sort(left[ranked[:how_many]])


def _right_with_one_more(votes: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Say of each sample and class if the vote is right after a vote for that class."""
    right = np.empty(votes.shape, int)
    for k in range(votes.shape[1]):
        more = votes.copy()
        more[:, k] += 1
        right[:, k] = more.argmax(axis=1) == y
    return right
