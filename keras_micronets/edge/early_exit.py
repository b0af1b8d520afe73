"""Stop running members for a sample once its class is decided or sure enough."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .combine import MIN_PROBABILITY, combine
from .tasks import to_columns

__all__ = [
    "EarlyExit",
    "check_exits",
    "combine_partial",
    "margin",
    "run_early_exit",
]

#: Relative error allowed for in float32 sums over a few members.
_ROUNDING = 1e-5


@dataclass(frozen=True)
class EarlyExit:
    """Define the order of the members, and when a sample needs no more of them.

    A sample is done once the remaining members cannot change its class, or once the
    combination of the members run so far is sure enough: the margin between its two
    largest probabilities reaches the threshold.

    Args:
        threshold: Margin, from 0 to 1. `None`: no margin is enough, so that the class
            is always the one that all members choose together.
        order: Indices of all members in the manifest, in the order they are run.
        tolerance: Share of samples allowed to get another class than from all
            members, for which the threshold was chosen. Defaults to `0.0`.
        saved: Share of the members' calls saved on the data it was chosen on.
            Defaults to `0.0`.
        samples: Number of samples it was chosen on. Defaults to `0`.

    Example:

    ```python
    from keras_micronets.edge import EarlyExit

    EarlyExit(0.6, order=(2, 0, 1))
    ```
    """

    threshold: float | None
    order: tuple[int, ...]
    tolerance: float = 0.0
    saved: float = 0.0
    samples: int = 0

    def check(
        self,
        n_members: int,
        n_classes: int,
        weights: Sequence[float] | None = None,
        task: str = "multiclass",
    ) -> None:
        """Raise a `ValueError` unless it suits the members of a bundle."""
        check_exits(task)
        if task == "multiclass" and n_classes < 2:
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
                "Expected an early exit whose first member has a positive weight. "
                f"Received: order={self.order}, weights={weights}."
            )


def check_exits(task: str) -> None:
    """Raise a `ValueError` unless further members can be known to change nothing."""
    if task not in ("multiclass", "binary"):
        raise ValueError(
            "Expected one class per sample for an early exit. Received: "
            f"task={task!r}. Leave the early exit out."
        )


def run_early_exit(
    predict: Callable[[int, np.ndarray], np.ndarray],
    n_samples: int,
    early_exit: EarlyExit,
    *,
    rule: str = "mean",
    weights: Sequence[float] | np.ndarray | None = None,
    temperature: float = 1.0,
    task: str = "multiclass",
) -> tuple[np.ndarray, np.ndarray]:
    """Run one member after the other on the samples that are not done.

    Args:
        predict: Function of the index of a member and an array of sample indices. It
            returns class probabilities of shape `(indices, classes)`, for the task
            `"binary"` `(indices, 1)`.
        n_samples: Number of samples.
        early_exit: Order and threshold.
        rule, weights, temperature, task: As for `combine`.

    Returns:
        Probabilities, for each sample the combination of the members that were run, and
        the number of these, `(samples,)`.
    """
    left, outputs, counts = np.arange(n_samples), [], np.zeros(n_samples, int)
    probabilities = np.empty(0)
    for n_run, member in enumerate(early_exit.order):
        output = predict(member, left)
        outputs.append(to_columns(output[:, 0]) if task == "binary" else output)
        together, done = combine_partial(
            outputs, early_exit, rule=rule, weights=weights, temperature=temperature
        )
        if n_run == 0:
            probabilities = together.copy()
        probabilities[left] = together
        counts[left] += 1
        left, outputs = left[~done], [p[~done] for p in outputs]
        if not len(left):
            break
    return probabilities[:, 1:] if task == "binary" else probabilities, counts


def combine_partial(
    outputs: Sequence[np.ndarray],
    early_exit: EarlyExit,
    *,
    rule: str = "mean",
    weights: Sequence[float] | np.ndarray | None = None,
    temperature: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Combine the outputs of the first members, and find the samples that are done.

    Args:
        outputs: Class probabilities `(samples, classes)` of each member that was run,
            in the order of the early exit.
        early_exit, rule, weights, temperature: As for `run_early_exit`.

    Returns:
        Class probabilities of shape `(samples, classes)`, of these members alone
        (their weights sum to one), and a boolean array of shape `(samples,)`.
    """
    order = [*early_exit.order]
    members, remaining = order[: len(outputs)], order[len(outputs) :]
    # In the order of the manifest, so that sums tie as those of all members do.
    indices = np.argsort(members)
    stacked, members = np.stack([outputs[i] for i in indices]), sorted(members)
    if weights is None:
        shares, (scores, reach) = None, _scores(stacked, rule, len(order))
    else:
        weights = np.asarray(weights, "float64")
        shares = weights[members] / weights[members].sum()
        scores = np.tensordot(weights[members], stacked, 1)
        reach = weights[remaining].sum()
    together = combine(stacked, rule=rule, weights=shares, temperature=temperature)
    done = margin(scores) > reach * (1 + _ROUNDING)
    if early_exit.threshold is not None:
        done |= margin(together) >= early_exit.threshold
    return together, done


def _scores(outputs, rule, n_members):
    """Return sums that decide the class, and the most the rest can add to a margin."""
    n_left = n_members - len(outputs)
    if rule == "logit":
        logits = np.log(np.maximum(outputs, MIN_PROBABILITY))
        return logits.sum(axis=0), -np.log(MIN_PROBABILITY) * n_left
    total = outputs.sum(axis=0)
    if rule == "mean":
        return total, n_left
    tie_break = 0.5 / n_members
    choices = outputs.argmax(axis=-1)[..., None] == np.arange(outputs.shape[-1])
    return choices.sum(axis=0) + tie_break * total, (1 + tie_break) * n_left


def margin(values: np.ndarray) -> np.ndarray:
    """Return the difference of the two largest values over the last axis."""
    largest = np.partition(values, -2, axis=-1)[..., -2:]
    return largest[..., 1] - largest[..., 0]
