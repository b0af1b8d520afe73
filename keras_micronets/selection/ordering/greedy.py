"""Ensembles that grow by the learner that does the mean probability most good."""

import operator
from typing import Any

import numpy as np

from keras_micronets.selection.candidates import Candidates
from keras_micronets.selection.ordering._means import mean_of
from keras_micronets.selection.ordering._ties import lowest
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
