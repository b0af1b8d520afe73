"""Ordering methods that use the predicted classes only."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from keras_micronets.selection.candidates import Candidates
from keras_micronets.selection.diversity import kappa_of
from keras_micronets.selection.ordering.method import lowest, ordering_method, rank

__all__ = [
    "complementariness",
    "drep",
    "epic",
    "kappa_pruning",
    "margin_distance",
    "mdep",
    "orientation_ordering",
]

# Predictions that are looked up at once; more do not fit into a processor's cache.
_BLOCK = 2**19


@ordering_method(counts=True)
def complementariness(
    candidates: Candidates, *, random_state: Any = None
) -> Iterable[int]:
    """Add the learner that is right most often where the members' vote is wrong.

    The most accurate learner comes first. A tie in the vote goes to the lower class.

    The cost is O(members x learners x samples).

    Example:

    ```python
    p = [[[0.9, 0.1], [0.8, 0.2]], [[0.9, 0.1], [0.7, 0.3]], [[0.4, 0.6], [0.1, 0.9]]]
    complementariness(p, [0, 1], n_members=2).indices  # array([1, 2])
    ```

    Reference: Martínez-Muñoz & Suárez, "Aggregation Ordering in Bagging", IASTED
    Artificial Intelligence and Applications, 2004.
    """
    chosen = [0]
    votes = candidates.votes_of(chosen)
    while len(chosen) < candidates.n_members:
        wrong = np.flatnonzero(votes.argmax(axis=1) != candidates.right_columns)
        n_corrected = candidates.correct[:, wrong].sum(axis=1)
        n_corrected[chosen] = -1
        chosen.append(int(n_corrected.argmax()))
        votes += candidates.votes_of(chosen[-1:])
    return chosen


@ordering_method(counts=True)
def margin_distance(
    candidates: Candidates, *, p: float = 0.075, random_state: Any = None
) -> Iterable[int]:
    """Add the learner that brings the members' mean signature nearest to a point.

    A signature has, for each sample, 1 if a learner is right and -1 if it is wrong. The
    point is `p` on all samples: slightly right on each rather than clearly right on
    many. The distance is Euclidean. Where learners are right far more often than `p`
    requires, the mean soon passes the point, and inaccurate learners are added to bring
    it back: raise `p` then.

    The cost is O(members x learners x samples).

    Args:
        p: Float in `(0, 1)`. Defaults to `0.075`; the authors' range is 0 to 0.25.

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
    n_samples, correct = candidates.n_samples, candidates.correct
    totals = 2 * correct.sum(axis=1) - n_samples
    products = np.zeros(len(candidates), int)  # of each signature and the members' sum
    chosen: list[int] = []
    for n in range(1, candidates.n_members + 1):
        # Half the squared distance, up to a constant.
        distances = (products / n - p * totals) / n_samples
        distances[chosen] = np.inf
        chosen.append(int(lowest(distances).argmax()))
        same = (correct == correct[chosen[-1]]).sum(axis=1)
        products += 2 * same - n_samples
    return chosen


@ordering_method(counts=True)
def orientation_ordering(
    candidates: Candidates, *, random_state: Any = None
) -> Iterable[int]:
    """Keep the learners that are right where the pool as a whole is wrong.

    A signature has, for each sample, 1 if a learner is right and -1 if it is wrong.
    Learners are ranked by the angle between their signature and the reference, the
    component of the diagonal (right on all samples) that is orthogonal to the mean
    signature of the pool. The smallest angle comes first; all are equal if the mean is
    zero or along the diagonal. The authors keep all learners below 90 degrees; here
    `n_members` are kept.

    The cost is O(learners x samples).

    Example:

    ```python
    p = [[[0.9, 0.1], [0.8, 0.2]], [[0.9, 0.1], [0.7, 0.3]], [[0.4, 0.6], [0.1, 0.9]]]
    orientation_ordering(p, [0, 1], n_members=1).indices  # array([2])
    ```

    Reference: Martínez-Muñoz & Suárez, "Pruning in Ordered Bagging Ensembles", ICML
    2006.
    """
    total = 2 * candidates.correct.sum(axis=0) - len(candidates)
    # A multiple of the reference in integers, so that rounding decides nothing.
    reference = total @ total - total.sum() * total
    # Signatures have the same length: their products rank as their angles do.
    products = [2 * reference[right].sum() for right in candidates.correct]
    return rank(np.array(products) - reference.sum())


@ordering_method(counts=True)
def epic(candidates: Candidates, *, random_state: Any = None) -> Iterable[int]:
    """Keep the learners that contribute most to the vote of the pool.

    On a sample on which the most frequent class got `most` votes, the second `second`,
    the right class `right` and the predicted class `predicted`, a learner scores
    `2 * most - predicted` if it is right and against the majority, `second` if it is
    right with the majority, and `right - predicted - most`, which is negative, if it is
    wrong.

    The cost is O(learners x samples).

    Example:

    ```python
    p = [[[0.9, 0.1], [0.9, 0.1]], [[0.9, 0.1], [0.8, 0.2]], [[0.4, 0.6], [0.1, 0.9]]]
    epic(p, [0, 1], n_members=1).indices  # array([2])
    ```

    Reference: Lu, Wu, Zhu & Bongard, "Ensemble Pruning via Individual Contribution
    Ordering" (EPIC), KDD 2010.
    """
    votes, samples = candidates.votes, np.arange(candidates.n_samples)
    labels = candidates.right_columns
    most, right = votes.max(axis=1), votes[samples, labels]
    scores = (right - most)[:, None] - votes
    # In a tie for the majority both rules for a right learner give the same score.
    second = _most_votes_without(votes, votes.argmax(axis=1))
    scores[samples, labels] = np.where(right == most, second, 2 * most - right)
    return rank(_sum_by_prediction(scores, candidates.columns))


@ordering_method(counts=True)
def mdep(
    candidates: Candidates, *, alpha: float = 0.2, random_state: Any = None
) -> Iterable[int]:
    """Keep the learners that are right where the vote is close and few are right.

    The margin of a sample is the share of all learners that vote for the right class
    minus the share that vote for the most frequent other class. A learner scores
    `-alpha * log(abs(margin)) - (1 - alpha) * log(share that is right)`, which is not
    negative, on each sample on which it is right. A margin of zero counts as half a
    vote, so that its logarithm is finite.

    The cost is O(learners x samples).

    Args:
        alpha: Float in `[0, 1]`: 0 considers only how few learners are right, 1 only
            how close the vote is. Defaults to `0.2`, the authors' choice.

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
    votes, samples = candidates.votes, np.arange(candidates.n_samples)
    labels = candidates.right_columns
    right = votes[samples, labels]
    margins = np.abs(right - _most_votes_without(votes, labels))
    margins = np.maximum(margins, 0.5) / len(candidates)
    shares = np.maximum(right, 1) / len(candidates)  # where none is right none scores
    scores = np.zeros(votes.shape)
    scores[samples, labels] = -alpha * np.log(margins) - (1 - alpha) * np.log(shares)
    # Equal sums over different samples may differ by rounding.
    return rank(_sum_by_prediction(scores, candidates.columns).round(9))


@ordering_method(counts=True)
def drep(
    candidates: Candidates, *, rho: float = 0.4, random_state: Any = None
) -> Iterable[int]:
    """Add the best of the learners that agree least with the members.

    The most accurate learner comes first. Then, one at a time: of the share `rho` of
    the remaining learners whose predictions agree least with the members' vote, the one
    with which the vote is wrong least often. A tie in the vote goes to the lower class.
    The authors, who have two classes, stop when the error no longer falls; here
    `n_members` are kept.

    The cost is O(members x learners x samples).

    Args:
        rho: Float in `(0, 1]`, the share of the remaining learners to consider: at `1`
            only the error counts. Defaults to `0.4`; the authors' range is 0.2 to 0.5.

    Example:

    ```python
    p = [[[0.9, 0.1], [0.8, 0.2]], [[0.9, 0.1], [0.7, 0.3]], [[0.4, 0.6], [0.1, 0.9]]]
    drep(p, [0, 1], n_members=2).indices  # array([1, 2])
    ```

    Reference: Li, Yu & Zhou, "Diversity Regularized Ensemble Pruning", ECML PKDD 2012.
    """
    if not 0 < rho <= 1:
        raise ValueError(f"Expected rho above 0 and up to 1. Received: {rho=}.")
    chosen, remaining = [0], np.arange(1, len(candidates))
    votes = candidates.votes_of(chosen)
    while len(chosen) < candidates.n_members:
        diverse = _least_agreeing(candidates, votes, remaining, rho)
        is_right = _right_after_vote(votes, candidates.right_columns)
        n_right = _sum_by_prediction(is_right, candidates.columns[diverse])
        chosen.append(diverse[n_right.argmax()])
        votes += candidates.votes_of(chosen[-1:])
        remaining = remaining[remaining != chosen[-1]]
    return chosen


@ordering_method(counts=True)
def kappa_pruning(candidates: Candidates, *, random_state: Any = None) -> Iterable[int]:
    """Keep the pairs of learners that agree least, in order of increasing kappa.

    Cohen's kappa of two learners is their agreement beyond chance as a share of the
    highest possible value: 1 if they always agree, 0 for chance; see `diversity.kappa`.
    Ties go to the pair of the more accurate learners, and so does the last place if
    only one learner of a pair is needed. Labels only decide ties: a learner may be kept
    because it is inaccurate.

    The cost is O(learners x learners x samples x log(classes)), and 4 bytes of memory
    for each pair of learners.

    Example:

    ```python
    p = [[[0.9, 0.1], [0.2, 0.8]], [[0.8, 0.2], [0.2, 0.8]], [[0.4, 0.6], [0.7, 0.3]]]
    kappa_pruning(p, [0, 1], n_members=2).indices  # array([0, 2])
    ```

    Reference: Margineantu & Dietterich, "Pruning Adaptive Boosting", ICML 1997.
    """
    chosen: dict[int, None] = {}  # keeps the order
    kappas = kappa_of(candidates.predictions)
    kappas[np.tri(len(kappas), dtype=bool)] = np.inf
    for pair in _pairs(kappas):
        chosen.update(dict.fromkeys(pair))
        if len(chosen) >= candidates.n_members:
            break
    return chosen


def _sum_by_prediction(table: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Sum, for each learner, the table's entries of its predicted classes.

    Args:
        table: Array of shape `(samples, columns)`.
        predictions: Integer array of shape `(learners, samples)`, columns of the table.

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


def _most_votes_without(votes: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the most votes of a sample for any class except the given one."""
    others = votes.copy()
    others[np.arange(len(votes)), classes] = -1
    return others.max(axis=1)


def _least_agreeing(
    candidates: Candidates, votes: np.ndarray, remaining: np.ndarray, rho: float
) -> np.ndarray:
    same = candidates.columns[remaining] == votes.argmax(axis=1)
    ranked = np.argsort(same.sum(axis=1), kind="stable")
    count = math.ceil(round(rho * len(remaining), 9))
    return np.sort(remaining[ranked[:count]])


def _right_after_vote(votes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return, for each sample and column, if one more vote makes the vote right."""
    columns = np.arange(votes.shape[1])
    winners, most = votes.argmax(axis=1)[:, None], votes.max(axis=1)[:, None]
    # One more vote passes the winner, or makes a tie, which goes to the lower class.
    wins = votes + (columns < winners) >= most
    return (np.where(wins, columns, winners) == labels[:, None]).astype(int)


def _pairs(values: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield pairs in ascending order of their value; `values` is overwritten."""
    nearest = values.argmin(axis=1)
    of_nearest = values.min(axis=1)
    while True:
        i = of_nearest.argmin()
        yield int(i), int(nearest[i])
        values[i, nearest[i]] = np.inf
        nearest[i] = values[i].argmin()
        of_nearest[i] = values[i, nearest[i]]
