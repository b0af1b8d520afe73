"""Learners as vectors of 1 where they are right and -1 where they are wrong."""

from typing import Any

import numpy as np

from keras_micronets.selection.candidates import Candidates
from keras_micronets.selection.ordering._ties import lowest
from keras_micronets.selection.selection import Selection


def complementariness(
    probabilities: Any, y: Any, n_members: int = 4, *, random_state: Any = None
) -> Selection:
    """Add the learner that is right most often where the members' vote is wrong.

    The most accurate learner comes first. Ties go to the most accurate; a vote's tie
    goes to the lower class.

    The cost is O(members x learners x samples).

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
    p = [[[0.9, 0.1], [0.8, 0.2]], [[0.9, 0.1], [0.7, 0.3]], [[0.4, 0.6], [0.1, 0.9]]]
    complementariness(p, [0, 1], n_members=2).indices  # array([1, 2])
    ```

    Reference: Martínez-Muñoz & Suárez, "Aggregation Ordering in Bagging", IASTED
    Artificial Intelligence and Applications, 2004.
    """
    found = Candidates(probabilities, y, n_members)
    chosen = [0]
    votes = found.votes_of(chosen)
    while len(chosen) < found.n_members:
        wrong = np.flatnonzero(votes.argmax(axis=1) != found.y)
        helps = found.correct[:, wrong].sum(axis=1)
        helps[chosen] = -1
        chosen.append(int(helps.argmax()))
        votes += found.votes_of(chosen[-1:])
    return found.select(chosen, method="complementariness")


def margin_distance(
    probabilities: Any,
    y: Any,
    n_members: int = 4,
    *,
    p: float = 0.075,
    random_state: Any = None,
) -> Selection:
    """Add the learner that brings the members' mean signature nearest to a point.

    A signature has, for each sample, 1 if a learner is right and -1 if it is wrong.
    The point is `p` on all samples: just right on each, rather than clearly right on
    many. The distance is Euclidean; ties go to the most accurate. Where learners are
    right far more often than `p` asks for, the mean is soon past the point, and poor
    learners come in to bring it back: raise `p`.

    The cost is O(members x learners x samples).

    Args:
        probabilities: Array of shape `(learners, samples, classes)`.
        y: Labels, sparse or one-hot; see `as_labels`.
        n_members: Integer. How many to keep. Defaults to `4`.
        p: Float in `(0, 1)`. Defaults to `0.075`; the authors' range is 0 to 0.25.
        random_state: Not used; here because all methods share one signature.

    Returns:
        A `Selection` with equal weights.

    Raises:
        ValueError: If there are fewer learners than members, `p` is out of range, or
            data is bad.

    Example:

    ```python
    learners = [[[0.9, 0.1], [0.8, 0.2]], [[0.9, 0.1], [0.7, 0.3]],
                [[0.4, 0.6], [0.1, 0.9]]]
    margin_distance(learners, [0, 1], n_members=2).indices  # array([1, 2])
    ```

    Reference: Martínez-Muñoz & Suárez, "Aggregation Ordering in Bagging", IASTED
    Artificial Intelligence and Applications, 2004.
    """
    if not 0 < p < 1:
        raise ValueError(f"Expected p between 0 and 1. Received: {p=}.")
    found = Candidates(probabilities, y, n_members)
    totals = 2 * found.correct.sum(axis=1) - found.n_samples
    products = np.zeros(len(found), int)  # of each signature and the members' sum
    chosen: list[int] = []
    for n in range(1, found.n_members + 1):
        # Half the squared distance, less what is the same for all.
        distances = (products / n - p * totals) / found.n_samples
        distances[chosen] = np.inf
        chosen.append(int(lowest(distances).argmax()))
        same = (found.correct == found.correct[chosen[-1]]).sum(axis=1)
        products += 2 * same - found.n_samples
    return found.select(chosen, method="margin_distance")


def orientation_ordering(
    probabilities: Any, y: Any, n_members: int = 4, *, random_state: Any = None
) -> Selection:
    """Keep the learners whose signatures point to where the pool's does not.

    A signature has, for each sample, 1 if a learner is right and -1 if it is wrong.
    Learners are ranked by the angle between their signature and the reference, the
    part of the diagonal (right on all samples) that is orthogonal to the pool's mean
    signature; the smallest comes first, ties go to the most accurate. So the most
    accurate are kept if the mean is zero or along the diagonal, and all angles equal.

    The authors keep all learners below 90 degrees. Here, `n_members` are kept; those
    beyond 90 degrees come in only if there are fewer below.

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
    p = [[[0.9, 0.1], [0.8, 0.2]], [[0.9, 0.1], [0.7, 0.3]], [[0.4, 0.6], [0.1, 0.9]]]
    orientation_ordering(p, [0, 1], n_members=1).indices  # array([2])
    ```

    Reference: Martínez-Muñoz & Suárez, "Pruning in Ordered Bagging Ensembles", ICML
    2006.
    """
    found = Candidates(probabilities, y, n_members)
    reference = _reference(found.correct)
    # Signatures are of one length, so their products rank as their angles do; whole
    # numbers leave no rounding to decide.
    products = [2 * reference[right].sum() - reference.sum() for right in found.correct]
    ranked = np.argsort(-np.array(products), kind="stable")
    return found.select(ranked[: found.n_members], method="orientation_ordering")


def _reference(correct: np.ndarray) -> np.ndarray:
    """Return a whole multiple of the diagonal's part orthogonal to the mean."""
    total = 2 * correct.sum(axis=0) - len(correct)
    return total @ total - total.sum() * total
