"""Learners as vectors of 1 where they are right and -1 where they are wrong."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_micronets.selection.candidates import Candidates
from keras_micronets.selection.diversity import kappa_of
from keras_micronets.selection.ordering.method import lowest
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


def kappa_pruning(
    probabilities: Any, y: Any, n_members: int = 4, *, random_state: Any = None
) -> Selection:
    """Keep the pairs of learners that agree least, the lowest kappa first.

    Cohen's kappa of two learners is how much more often they predict the same class
    than chance would have it, as a share of what is possible: 1 if they always agree,
    0 for chance. (Two that both predict one and the same class always: 1.) Ties go to
    the pair of the more accurate learners. If only one of a pair's learners is still
    needed it is the more accurate. Labels only order the learners: the diversity is
    that of the predictions, and learners may be kept because they are bad.

    The cost is O(learners x learners x samples x log(classes)), and memory for a
    number of 4 bytes a pair of learners.

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
    p = [[[0.9, 0.1], [0.2, 0.8]], [[0.8, 0.2], [0.2, 0.8]], [[0.4, 0.6], [0.7, 0.3]]]
    kappa_pruning(p, [0, 1], n_members=2).indices  # array([0, 2])
    ```

    Reference: Margineantu & Dietterich, "Pruning Adaptive Boosting", ICML 1997.
    """
    found = Candidates(probabilities, y, n_members)
    chosen: dict[int, None] = {}  # for its order
    kappas = kappa_of(found.predictions)
    kappas[np.tri(len(kappas), dtype=bool)] = np.inf
    for pair in _pairs(kappas):
        chosen.update(dict.fromkeys(pair))
        if len(chosen) >= found.n_members:
            break
    return found.select(list(chosen)[: found.n_members], method="kappa_pruning")


def _pairs(values: np.ndarray) -> Iterator[tuple[int, int]]:
    """Go through pairs, the lowest value first; `values` is used up."""
    nearest = values.argmin(axis=1)
    of_nearest = values.min(axis=1)
    while True:
        i = of_nearest.argmin()
        yield int(i), int(nearest[i])
        values[i, nearest[i]] = np.inf
        nearest[i] = values[i].argmin()
        of_nearest[i] = values[i, nearest[i]]


# Predictions that are looked up together.
_BLOCK = 2**19


def look_up(table: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Sum what a table says of each predicted class.

    Args:
        table: Array of shape `(samples, classes)`.
        predictions: Integer array of shape `(learners, samples)`.

    Returns:
        Array of shape `(learners,)`.
    """
    samples = np.arange(len(table))
    sums = np.empty(len(predictions), table.dtype)
    length = max(1, _BLOCK // len(table))
    for start in range(0, len(predictions), length):
        part = slice(start, start + length)
        sums[part] = table[samples, predictions[part]].sum(axis=1)
    return sums


def runners_up(votes: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the most votes for any class but one.

    Args:
        votes: Integer array of shape `(samples, classes)`.
        classes: Integer array of shape `(samples,)`, the class to leave out.

    Returns:
        Integer array of shape `(samples,)`.
    """
    others = votes.copy()
    others[np.arange(len(votes)), classes] = -1
    return others.max(axis=1)
