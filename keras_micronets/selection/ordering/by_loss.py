"""Ordering methods that lower the loss of the members' mean probability."""

import operator
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from keras_micronets.selection.candidates import Candidates
from keras_micronets.selection.ordering.method import lowest, ordering_method
from keras_micronets.selection.validation import check_choice

__all__ = ["backward_elimination", "greedy", "reduced_error", "running_mean"]

# Numbers that are processed at once; more do not fit into a processor's cache.
_BLOCK = 2**17


@ordering_method(label="greedy by {loss}", weighted=True)
def greedy(
    candidates: Candidates,
    *,
    n_rounds: int | None = None,
    loss: str = "nll",
    random_state: Any = None,
) -> Iterable[int]:
    """Add, in each round, the learner that lowers the ensemble's loss the most.

    The loss is that of the mean probability of all learners added so far. A learner may
    be added again and so gains weight: its weight is the share of the rounds that added
    it. Ties go to learners that are already members, then to the most accurate. Once
    there are `n_members` different members, further rounds choose among them. At the
    end the ensemble is cut back to the first round with the lowest loss, so fewer than
    `n_members` learners may be kept.

    A round costs O(learners x samples), with `loss="error"` O(learners x samples x
    classes).

    Args:
        n_rounds: Integer, the number of rounds. Defaults to `None`: twice `n_members`,
            at least 25.
        loss: `"nll"`, the negative log-likelihood, or the loss of the task of
            `Targets`; or `"error"`, the share of samples that are wrong. Defaults to
            `"nll"`.

    Example:

    ```python
    p = [[[0.9, 0.1], [0.6, 0.4]], [[0.2, 0.8], [0.1, 0.9]]]
    selection = greedy(p, [0, 1], n_members=2, n_rounds=3)
    selection.indices, selection.weights  # array([0, 1]), array([0.67, 0.33])
    ```

    Reference: Caruana, Niculescu-Mizil, Crew & Ksikes, "Ensemble Selection from
    Libraries of Models", ICML 2004.
    """
    n_rounds = _check_rounds(n_rounds, candidates.n_members)
    added, losses = _grow(candidates, n_rounds, loss)
    return added[: lowest(losses).argmax() + 1]


@ordering_method(counts=True)
def reduced_error(candidates: Candidates, *, random_state: Any = None) -> Iterable[int]:
    """Add, one at a time, the learner with which the fewest samples are wrong.

    The mean probability decides what is wrong, and no learner is added twice. The
    authors count votes, and exchange members at the end ("backfitting").

    The cost is O(members x learners x samples x classes).

    Example:

    ```python
    p = [[[0.9, 0.1], [0.8, 0.2]], [[0.9, 0.1], [0.7, 0.3]], [[0.4, 0.6], [0.1, 0.9]]]
    reduced_error(p, [0, 1], n_members=2).indices  # array([1, 2])
    ```

    Reference: Margineantu & Dietterich, "Pruning Adaptive Boosting", ICML 1997.
    """
    mean = running_mean(candidates, "error")
    remaining = np.arange(len(candidates))
    chosen = []
    for _ in range(candidates.n_members):
        best = remaining[lowest(mean.losses(remaining)).argmax()]
        mean.add(best)
        chosen.append(best)
        remaining = remaining[remaining != best]
    return chosen


@ordering_method(label="backward_elimination by {loss}")
def backward_elimination(
    candidates: Candidates,
    *,
    start: int | None = None,
    loss: str = "nll",
    random_state: Any = None,
) -> Iterable[int]:
    """Remove, one at a time, the learner without which the loss is lowest.

    The loss is that of the mean probability of the remaining learners. Among equals the
    least accurate is removed.

    The cost is O(start x start x samples), with `loss="error"` times the classes: it
    grows with the square of the pool. On two cores, 1,000 learners of 2,000 samples
    take ten seconds and 10,000 a quarter of an hour; 1,000 with `loss="error"` and 10
    classes take a minute. Lower `start` for large pools.

    Args:
        start: Integer, the number of most accurate learners to start from. Defaults to
            `None`, all.
        loss: `"nll"`, the negative log-likelihood, or the loss of the task of
            `Targets`; or `"error"`, the share of samples that are wrong. Defaults to
            `"nll"`.

    Example:

    ```python
    p = [[[0.9, 0.1], [0.8, 0.2]], [[0.9, 0.1], [0.7, 0.3]], [[0.4, 0.6], [0.1, 0.9]]]
    backward_elimination(p, [0, 1], n_members=2).indices  # array([1, 2])
    ```

    Reference: Alhalabi, Gaber & Basurra, "EnSyth: A Pruning Approach to Synthesis of
    Deep Learning Ensembles", SMC 2019 (by the error).
    """
    remaining = np.arange(_check_start(start, candidates))
    mean = running_mean(candidates, loss)
    for index in remaining:
        mean.add(index)
    while len(remaining) > candidates.n_members:
        least_needed = np.flatnonzero(lowest(mean.losses(remaining, sign=-1)))[-1]
        mean.add(remaining[least_needed], sign=-1)
        remaining = np.delete(remaining, least_needed)
    return remaining


class _RunningMean:
    """The mean prediction of a set of candidates that changes by one at a time.

    Args:
        candidates: `Candidates`.
        shape: Tuple, the shape of one candidate's prediction.
    """

    def __init__(self, candidates: Candidates, shape: tuple[int, ...]):
        self._candidates = candidates
        self._total = np.zeros(shape)
        self._count = 0

    def add(self, index: Any, sign: int = 1) -> None:
        """Add a candidate, or remove it if `sign` is `-1`."""
        self._total += sign * self._terms(index)
        self._count += sign

    def losses(self, indices: np.ndarray, sign: int = 1) -> np.ndarray:
        """Return the loss after adding, or removing, each of the candidates.

        Args:
            indices: Integer array of shape `(candidates,)`.
            sign: `1` to add each, `-1` to remove each. Defaults to `1`.

        Returns:
            Float array of shape `(candidates,)`.
        """
        losses, loss = np.empty(len(indices)), self._loss(sign)
        length = max(1, _BLOCK // self._total.size)
        for start in range(0, len(indices), length):
            part = slice(start, start + length)
            losses[part] = loss(self._terms(indices[part]))
        return losses

    def _terms(self, indices: Any) -> np.ndarray:
        raise NotImplementedError

    def _loss(self, sign: int) -> Callable[[np.ndarray], np.ndarray]:
        raise NotImplementedError


class _MeanTerms(_RunningMean):
    """The mean whose loss is that of the task, see `Targets.terms`."""

    def __init__(self, candidates: Candidates):
        super().__init__(candidates, candidates.terms.shape[1:])

    def _terms(self, indices: Any) -> np.ndarray:
        return self._candidates.terms[indices]

    def _loss(self, sign: int) -> Callable[[np.ndarray], np.ndarray]:
        def loss(terms: np.ndarray) -> np.ndarray:
            mean = (self._total + sign * terms) / (self._count + sign)
            return self._candidates.average(self._candidates.targets.loss(mean))

        return loss


class _MeanProbability(_RunningMean):
    def __init__(self, candidates: Candidates):
        super().__init__(candidates, (candidates.n_samples, candidates.n_classes))

    def _terms(self, indices: Any) -> np.ndarray:
        return self._candidates.probabilities(indices)

    def _loss(self, sign: int) -> Callable[[np.ndarray], np.ndarray]:
        margins = self._margins()
        # One candidate changes a margin by at most one: other samples are settled.
        undecided = np.flatnonzero(np.abs(margins) < 1.01)
        settled = (margins < -1).sum() - (margins[undecided] < -1).sum()
        y, total = self._candidates.y[undecided], self._total[undecided]
        # The same value is subtracted from all classes, so that single precision is
        # enough for those that come close.
        total -= total.max(axis=1, keepdims=True)
        total = total.astype(self._candidates.probabilities(0).dtype, copy=False)

        def loss(terms: np.ndarray) -> np.ndarray:
            if len(y) < terms.shape[1]:
                terms = terms[:, undecided]
            sums = total + terms if sign > 0 else total - terms
            wrong = (sums.argmax(axis=2) != y).sum(axis=1)
            return (settled + wrong) / self._candidates.n_samples

        return loss

    def _margins(self) -> np.ndarray:
        samples, y = np.arange(self._candidates.n_samples), self._candidates.y
        others = self._total.copy()
        others[samples, y] = -np.inf
        return self._total[samples, y] - others.max(axis=1)


def running_mean(candidates: Candidates, loss: str) -> _RunningMean:
    """Return an empty mean with a loss, `"nll"` or `"error"`."""
    check_choice("loss", loss, ("nll", "error"))
    if loss == "error":
        candidates.check_classes(weighted=False)
    return (_MeanTerms if loss == "nll" else _MeanProbability)(candidates)


def _grow(
    candidates: Candidates, n_rounds: int, loss: str
) -> tuple[list[int], np.ndarray]:
    mean = running_mean(candidates, loss)
    is_member = np.zeros(len(candidates), bool)
    indices = np.arange(len(candidates))
    added, losses = [], np.empty(n_rounds)
    for i in range(n_rounds):
        if is_member.sum() == candidates.n_members:
            indices = np.flatnonzero(is_member)
        with_each = mean.losses(indices)
        best = np.argmax(lowest(with_each) * (1 + is_member[indices]))
        losses[i] = with_each[best]
        added.append(indices[best])
        mean.add(indices[best])
        is_member[indices[best]] = True
    return added, losses


def _check_rounds(n_rounds: Any, n_members: int) -> int:
    if n_rounds is None:
        return max(25, 2 * n_members)
    try:
        n_rounds = operator.index(n_rounds)
    except TypeError:
        raise TypeError(
            f"Expected an integer number of rounds. Received: {n_rounds=}."
        ) from None
    if n_rounds < 1:
        raise ValueError(f"Expected at least one round. Received: {n_rounds=}.")
    return n_rounds


def _check_start(start: int | None, candidates: Candidates) -> int:
    if start is None:
        return len(candidates)
    if not candidates.n_members <= start <= len(candidates):
        raise ValueError(
            f"Expected start from n_members={candidates.n_members} to "
            f"{len(candidates)}, the number of learners. Received: {start=}."
        )
    return start
