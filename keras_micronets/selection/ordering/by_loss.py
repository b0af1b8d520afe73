"""Ensembles that grow by the learner that does the mean probability most good."""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_micronets.selection.candidates import Candidates
from keras_micronets.selection.ordering.method import lowest
from keras_micronets.selection.selection import Selection


def greedy(
    probabilities: Any,
    y: Any,
    n_members: int = 4,
    *,
    n_rounds: int | None = None,
    loss: str = "nll",
    random_state: Any = None,
) -> Selection:
    """Add, round after round, the learner that lowers the ensemble's loss the most.

    A learner may be added again and so gains weight: its weight is the share of the
    rounds that added it. Ties go to learners that are already in, then to the most
    accurate. Once `n_members` different learners are in, the rounds go on among them.
    In the end the ensemble is cut back to the first round at which its loss was lowest,
    so that fewer than `n_members` may be kept.

    The loss is that of the mean probability of all that were added. A round costs
    O(learners x samples), with `loss="error"` O(learners x samples x classes).

    Args:
        probabilities: Array of shape `(learners, samples, classes)`.
        y: Labels, sparse or one-hot; see `as_labels`.
        n_members: Integer. How many different learners to keep at most. Defaults to
            `4`.
        n_rounds: Integer. How many learners to add. Defaults to `None`: twice
            `n_members`, at least 25.
        loss: `"nll"`, the negative log-likelihood, or `"error"`, the share of samples
            that are wrong. Defaults to `"nll"`.
        random_state: Not used; here because all methods share one signature.

    Returns:
        A `Selection`; a member's weight is its share of the rounds.

    Raises:
        TypeError: If `n_rounds` is not an integer.
        ValueError: If there are fewer learners than members, `n_rounds` is less than
            one, `loss` is unknown, or data is bad.

    Example:

    ```python
    p = [[[0.9, 0.1], [0.6, 0.4]], [[0.2, 0.8], [0.1, 0.9]]]
    selection = greedy(p, [0, 1], n_members=2, n_rounds=3)
    selection.indices, selection.weights  # array([0, 1]), array([0.67, 0.33])
    ```

    Reference: Caruana, Niculescu-Mizil, Crew & Ksikes, "Ensemble Selection from
    Libraries of Models", ICML 2004.
    """
    found = Candidates(probabilities, y, n_members)
    n_rounds = _check_rounds(n_rounds, found.n_members)
    added, losses = _grow(found, n_rounds, loss)
    added = added[: lowest(losses).argmax() + 1]
    places, counts = np.unique(added, return_counts=True)
    return found.select(places, weights=counts, method=f"greedy by {loss}")


def reduced_error(
    probabilities: Any, y: Any, n_members: int = 4, *, random_state: Any = None
) -> Selection:
    """Add, one after the other, the learner that leaves the fewest samples wrong.

    Ties go to the most accurate. No learner is added twice, none is exchanged later,
    and what is wrong is decided by the mean probability; the authors let members vote,
    and exchange them in the end ("backfitting").

    The cost is O(members x learners x samples x classes).

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
    reduced_error(p, [0, 1], n_members=2).indices  # array([1, 2])
    ```

    Reference: Margineantu & Dietterich, "Pruning Adaptive Boosting", ICML 1997.
    """
    found = Candidates(probabilities, y, n_members)
    mean = mean_of(found, "error")
    left = np.arange(len(found))
    chosen = []
    for _ in range(found.n_members):
        best = left[lowest(mean.losses(left)).argmax()]
        mean.add(best)
        chosen.append(best)
        left = left[left != best]
    return found.select(chosen, method="reduced_error")


def _grow(found: Candidates, n_rounds: int, loss: str) -> tuple[list, np.ndarray]:
    mean = mean_of(found, loss)
    is_member = np.zeros(len(found), bool)
    places = np.arange(len(found))
    added, losses = [], np.empty(n_rounds)
    for i in range(n_rounds):
        if is_member.sum() == found.n_members:
            places = np.flatnonzero(is_member)
        with_each = mean.losses(places)
        best = np.argmax(lowest(with_each) * (1 + is_member[places]))
        losses[i] = with_each[best]
        added.append(places[best])
        mean.add(places[best])
        is_member[places[best]] = True
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


def backward_elimination(
    probabilities: Any,
    y: Any,
    n_members: int = 4,
    *,
    start: int | None = None,
    loss: str = "nll",
    random_state: Any = None,
) -> Selection:
    """Drop, one after the other, the learner without which the rest does best.

    The rest does best where the loss of its mean probability is lowest. Among equals
    the least accurate is dropped.

    The cost is O(start x start x samples), with `loss="error"` times the classes: it
    grows with the square of the pool. On two cores, 1,000 learners of 2,000 samples
    take ten seconds and 10,000 a quarter of an hour; 1,000 by the error, of 10 classes,
    take a minute. Begin with fewer by `start`.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`.
        y: Labels, sparse or one-hot; see `as_labels`.
        n_members: Integer. How many to keep. Defaults to `4`.
        start: Integer, how many to begin with, the most accurate. Defaults to `None`,
            all.
        loss: `"nll"`, the negative log-likelihood, or `"error"`, the share of samples
            that are wrong. Defaults to `"nll"`.
        random_state: Not used; here because all methods share one signature.

    Returns:
        A `Selection` with equal weights.

    Raises:
        ValueError: If there are fewer learners than members, `start` is not between
            the two, `loss` is unknown, or data is bad.

    Example:

    ```python
    p = [[[0.9, 0.1], [0.8, 0.2]], [[0.9, 0.1], [0.7, 0.3]], [[0.4, 0.6], [0.1, 0.9]]]
    backward_elimination(p, [0, 1], n_members=2).indices  # array([1, 2])
    ```

    Reference: Alhalabi, Gaber & Basurra, "EnSyth: A Pruning Approach to Synthesis of
    Deep Learning Ensembles", SMC 2019, which looks at the error.
    """
    found = Candidates(probabilities, y, n_members)
    left = np.arange(_check_start(start, found))
    mean = mean_of(found, loss)
    for place in left:
        mean.add(place)
    while len(left) > found.n_members:
        missed_least = np.flatnonzero(lowest(mean.losses(left, sign=-1)))[-1]
        mean.add(left[missed_least], sign=-1)
        left = np.delete(left, missed_least)
    return found.select(left, method=f"backward_elimination by {loss}")


def _check_start(start: int | None, found: Candidates) -> int:
    if start is None:
        return len(found)
    if not found.n_members <= start <= len(found):
        raise ValueError(
            f"Expected start from n_members={found.n_members} to {len(found)}, the "
            f"number of learners. Received: {start=}."
        )
    return start


# Numbers that are looked at together; more do not fit into a processor's cache.
_BLOCK = 2**17


class _Mean:
    """The sum of what some candidates predict, to which candidates can be added.

    Args:
        found: `Candidates`.
        shape: Tuple. The shape of what a candidate predicts.
    """

    def __init__(self, found: Candidates, shape: tuple[int, ...]):
        self._found = found
        self._total = np.zeros(shape)
        self._count = 0

    def add(self, place: int, sign: int = 1) -> None:
        """Add a candidate, or take one away if `sign` is `-1`."""
        self._total += sign * self._terms(place)
        self._count += sign

    def losses(self, places: np.ndarray, sign: int = 1) -> np.ndarray:
        """Return the loss with each of the candidates, or without each if it is there.

        Args:
            places: Integer array of shape `(candidates,)`.
            sign: `1`, each added, or `-1`, each taken away. Defaults to `1`.

        Returns:
            Float array of shape `(candidates,)`.
        """
        losses, loss = np.empty(len(places)), self._loss(sign)
        length = max(1, _BLOCK // self._total.size)
        for start in range(0, len(places), length):
            part = slice(start, start + length)
            losses[part] = loss(self._terms(places[part]))
        return losses


class _MeanLikelihood(_Mean):
    def __init__(self, found: Candidates):
        super().__init__(found, (found.n_samples,))

    def _terms(self, places: np.ndarray) -> np.ndarray:
        return self._found.likelihoods[places]

    def _loss(self, sign: int) -> Callable:
        def loss(terms: np.ndarray) -> np.ndarray:
            mean = (self._total + sign * terms) / (self._count + sign)
            return -np.log(mean, out=mean).mean(axis=1)

        return loss


class _MeanProbability(_Mean):
    def __init__(self, found: Candidates):
        super().__init__(found, (found.n_samples, found.n_classes))

    def _terms(self, places: np.ndarray) -> np.ndarray:
        return self._found.probabilities(places)

    def _loss(self, sign: int) -> Callable:
        margins = self._margins()
        # One candidate moves a margin by no more than one: other samples are settled.
        open_ = np.flatnonzero(np.abs(margins) < 1.01)
        settled = (margins < -1).sum() - (margins[open_] < -1).sum()
        y, total = self._found.y[open_], self._total[open_]
        # The same is taken from all classes, so that single precision is enough for
        # those that come close.
        total -= total.max(axis=1, keepdims=True)

        def loss(terms: np.ndarray) -> np.ndarray:
            if len(y) < terms.shape[1]:
                terms = terms[:, open_]
            sums = sign * terms + total.astype(terms.dtype)
            wrong = (sums.argmax(axis=2) != y).sum(axis=1)
            return (settled + wrong) / self._found.n_samples

        return loss

    def _margins(self) -> np.ndarray:
        samples, y = np.arange(self._found.n_samples), self._found.y
        others = self._total.copy()
        others[samples, y] = -np.inf
        return self._total[samples, y] - others.max(axis=1)


def mean_of(found: Candidates, loss: str) -> _Mean:
    """Make the empty mean whose loss is `"nll"` or `"error"`.

    Raises:
        ValueError: If `loss` is something else.
    """
    if loss not in ("nll", "error"):
        raise ValueError(f"Expected loss='nll' or loss='error'. Received: {loss=}.")
    return _MeanLikelihood(found) if loss == "nll" else _MeanProbability(found)
