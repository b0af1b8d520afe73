"""Asking no more members than an answer takes."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .combine import LEAST, combine

#: A lead in float32 sums of a few members is worth no more than this.
_ROUNDING = 1e-5


@dataclass(frozen=True)
class EarlyExit:
    """Say in which order members are asked, and when a sample needs no more of them.

    A sample is done once the members that are left cannot change its class, and also
    once the combination of those asked so far is sure enough: the margin, its largest
    probability less the second largest, reaches the threshold.

    Args:
        threshold: Margin, from 0 to 1. `None`: no margin is enough, so that the class
            is always that of all members.
        order: Places of all members in the manifest, the first one asked first.
        tolerance: Share of samples whose class may be another than that of all
            members, for which the threshold was chosen. Defaults to `0.0`.
        saved: Share of the members' calls that it saved where it was chosen.
            Defaults to `0.0`.
        samples: How many samples it was chosen on. Defaults to `0`.

    Example:

    ```python
    EarlyExit(0.6, order=(2, 0, 1))
    ```
    """

    threshold: float | None
    order: tuple[int, ...]
    tolerance: float = 0.0
    saved: float = 0.0
    samples: int = 0

    def check(self, n_members: int, n_classes: int, weights=None) -> None:
        """Raise a `ValueError` unless it suits the members of a bundle."""
        if n_classes < 2:
            raise ValueError(
                "Expected two or more classes for an early exit. "
                f"Received: {n_classes}."
            )
        shares = (self.threshold or 0.0, self.tolerance, self.saved)
        if not (
            sorted(self.order) == list(range(n_members))
            and all(0 <= share <= 1 for share in shares)
            and self.samples >= 0
        ):
            raise ValueError(
                "Expected an early exit with a threshold, a tolerance and a share of "
                f"saved calls from 0 to 1, and an order of all {n_members} members. "
                f"Received: {self}."
            )
        if weights is not None and not weights[self.order[0]] > 0:
            raise ValueError(
                "Expected an early exit that asks a member with a weight first. "
                f"Received: order={self.order}, weights={weights}."
            )


def ask_in_turn(
    ask: Callable[[int, np.ndarray], np.ndarray],
    n_samples: int,
    early_exit: EarlyExit,
    *,
    rule: str = "mean",
    weights=None,
) -> tuple[np.ndarray, np.ndarray]:
    """Ask one member after the other about the samples that are not done.

    Args:
        ask: Function of a member's place and the samples' indices that returns class
            probabilities of shape `(indices, classes)`.
        n_samples: How many samples there are.
        early_exit: In which order, and how sure is sure enough.
        rule, weights: As for `combine`.

    Returns:
        Class probabilities of shape `(samples, classes)`, for each sample the
        combination of the members asked, and how many these are, `(samples,)`.
    """
    left, said, asked = np.arange(n_samples), [], np.zeros(n_samples, int)
    answers = None
    for place in early_exit.order:
        said.append(ask(place, left))
        together, done = combine_asked(said, early_exit, rule=rule, weights=weights)
        answers = together.copy() if answers is None else answers
        answers[left] = together
        asked[left] += 1
        left, said = left[~done], [p[~done] for p in said]
        if not len(left):
            break
    return answers, asked


def combine_asked(
    said, early_exit: EarlyExit, *, rule: str = "mean", weights=None
) -> tuple[np.ndarray, np.ndarray]:
    """Combine what the first members say, and tell which samples are done.

    Args:
        said: Class probabilities `(samples, classes)` of each member asked, in the
            order asked.
        early_exit, rule, weights: As for `ask_in_turn`.

    Returns:
        Class probabilities of shape `(samples, classes)`, of the members asked alone
        (their weights sum to one), and a boolean array of shape `(samples,)`.
    """
    order = [*early_exit.order]
    asked, rest = order[: len(said)], order[len(said) :]
    # In the order of the manifest: sums that tie are then the same as of all members.
    places = np.argsort(asked)
    said, asked = np.stack([said[place] for place in places]), sorted(asked)
    if weights is None:
        shares, (scores, left) = None, _scores(said, rule, len(order))
    else:
        weights = np.asarray(weights, "float64")
        shares = weights[asked] / weights[asked].sum()
        scores, left = np.tensordot(weights[asked], said, 1), weights[rest].sum()
    together = combine(said, rule=rule, weights=shares)
    done = margin(scores) > left * (1 + _ROUNDING)
    if early_exit.threshold is not None:
        done |= margin(together) >= early_exit.threshold
    return together, done


def _scores(said, rule, n_members):
    """Return sums that decide the class, and the most that others add to a margin."""
    n_left = n_members - len(said)
    if rule == "logit":
        return np.log(np.maximum(said, LEAST)).sum(axis=0), -np.log(LEAST) * n_left
    total = said.sum(axis=0)
    if rule == "mean":
        return total, n_left
    tie_break = 0.5 / n_members
    choices = said.argmax(axis=-1)[..., None] == np.arange(said.shape[-1])
    return choices.sum(axis=0) + tie_break * total, (1 + tie_break) * n_left


def margin(values: np.ndarray) -> np.ndarray:
    """Return how far the largest value is above the second, over the last axis."""
    two = np.partition(values, -2, axis=-1)[..., -2:]
    return two[..., 1] - two[..., 0]
