"""Learners ranked once by what they contribute to the vote of the whole pool."""

from typing import Any

import numpy as np

from keras_micronets.selection.candidates import Candidates
from keras_micronets.selection.ordering._tables import look_up, runners_up
from keras_micronets.selection.selection import Selection


def epic(
    probabilities: Any, y: Any, n_members: int = 4, *, random_state: Any = None
) -> Selection:
    """Keep the learners that contribute most to the vote of all: right, and rarely so.

    On a sample on which the most frequent class got `most` votes, the second `second`,
    the right class `right` and the predicted one `predicted`, a learner earns
    `2 * most - predicted` if it is right and not with the majority, `second` if it is
    right with the majority, and `right - predicted - most`, which is negative, if it
    is wrong. Ties go to the most accurate.

    The cost is O(learners x samples), whatever `n_members` is.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`.
        y: Labels, sparse or one-hot; see `as_labels`.
        n_members: Integer. How many to keep. Defaults to `4`.
        random_state: Not used; here because all methods share one signature.

    Returns:
        A `Selection` with equal weights.

    Raises:
        ValueError: If there are fewer learners than members, or data is bad.

    Example:

    ```python
    p = [[[0.9, 0.1], [0.9, 0.1]], [[0.9, 0.1], [0.8, 0.2]], [[0.4, 0.6], [0.1, 0.9]]]
    epic(p, [0, 1], n_members=1).indices  # array([2])
    ```

    Reference: Lu, Wu, Zhu & Bongard, "Ensemble Pruning via Individual Contribution
    Ordering" (EPIC), KDD 2010.
    """
    found = Candidates(probabilities, y, n_members)
    votes, samples = found.votes, np.arange(found.n_samples)
    most, right = votes.max(axis=1), votes[samples, found.y]
    table = (right - most)[:, None] - votes
    # A tie for the majority needs no care: both rules for the right give the same.
    second = runners_up(votes, votes.argmax(axis=1))
    table[samples, found.y] = np.where(right == most, second, 2 * most - right)
    return _best(found, look_up(table, found.predictions), "epic")


def mdep(
    probabilities: Any,
    y: Any,
    n_members: int = 4,
    *,
    alpha: float = 0.2,
    random_state: Any = None,
) -> Selection:
    """Keep the learners that are right where the vote is close and few are right.

    On a sample, the margin is the share of all learners that vote for the right class,
    less the share that vote for the most frequent of the others. A learner earns
    `-alpha * log(abs(margin)) - (1 - alpha) * log(share that is right)`, which is not
    negative, on each sample on which it is right. A margin of zero counts as half a
    vote, as its logarithm has to be finite. Ties go to the most accurate.

    The cost is O(learners x samples), whatever `n_members` is.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`.
        y: Labels, sparse or one-hot; see `as_labels`.
        n_members: Integer. How many to keep. Defaults to `4`.
        alpha: Float in `[0, 1]`: 0 looks at how few are right alone, 1 at how close the
            vote is alone. Defaults to `0.2`, the authors' choice.
        random_state: Not used; here because all methods share one signature.

    Returns:
        A `Selection` with equal weights.

    Raises:
        ValueError: If there are fewer learners than members, `alpha` is out of range,
            or data is bad.

    Example:

    ```python
    p = [[[0.9, 0.1], [0.9, 0.1]], [[0.9, 0.1], [0.8, 0.2]], [[0.4, 0.6], [0.1, 0.9]]]
    mdep(p, [0, 1], n_members=1).indices  # array([2])
    ```

    Reference: Guo et al., "Margin & Diversity Based Ordering Ensemble Pruning",
    Neurocomputing, 2018.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"Expected alpha from 0 to 1. Received: {alpha=}.")
    found = Candidates(probabilities, y, n_members)
    votes, samples = found.votes, np.arange(found.n_samples)
    right = votes[samples, found.y]
    margins = np.maximum(np.abs(right - runners_up(votes, found.y)), 0.5) / len(found)
    shares = np.maximum(right, 1) / len(found)  # where none is right none earns it
    table = np.zeros(votes.shape)
    table[samples, found.y] = -alpha * np.log(margins) - (1 - alpha) * np.log(shares)
    # Equal sums of unlike samples may differ by rounding.
    return _best(found, look_up(table, found.predictions).round(9), "mdep")


def _best(found: Candidates, scores: np.ndarray, method: str) -> Selection:
    ranked = np.argsort(-scores, kind="stable")
    return found.select(ranked[: found.n_members], method=method)
