"""What ways of choosing are worth on samples that they have not seen."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.model_selection import RepeatedKFold
from sklearn.utils import check_random_state

from keras_micronets.selection.metrics import accuracy, negative_log_likelihood
from keras_micronets.selection.ordering.method import top_k
from keras_micronets.selection.selection import Selection
from keras_micronets.selection.validation import (
    as_labels,
    check_n_members,
    check_probabilities,
    in_blocks,
    progress,
)


def mean_error(probabilities: Any, y: Any) -> np.ndarray:
    """Return the share of samples whose most probable class is not the right one."""
    return 1 - accuracy(probabilities, y)


SCORINGS: dict[str, Callable] = {"loss": negative_log_likelihood, "error": mean_error}


def held_out_losses(
    methods: Sequence[Callable[..., Selection]],
    probabilities: Any,
    y: Any,
    *,
    scoring: str = "loss",
    n_splits: int = 5,
    n_repeats: int = 1,
    random_state: Any = 0,
    verbose: int = 0,
) -> np.ndarray:
    """Choose on a part of the samples and score on the rest, in turns.

    Args:
        methods: Functions of probabilities and labels that return a `Selection`.
        probabilities: Array of shape `(learners, samples, classes)`.
        y: Labels, sparse or one-hot; see `as_labels`.
        scoring: `"loss"`, the negative log-likelihood of the members' mean
            probability, or `"error"`, the share that it gets wrong. Defaults to
            `"loss"`.
        n_splits: Integer. Parts that the samples are split into. Defaults to `5`.
        n_repeats: Integer. How often they are split. Defaults to `1`.
        random_state: As in scikit-learn, for the splits. Defaults to `0`.
        verbose: `0`, silent, or `1`, a line of progress. Defaults to `0`.

    Returns:
        Float array of shape `(methods, n_splits * n_repeats)`, lower is better; NaN
        where a method finds no answer, as more clusters than learners.

    Raises:
        ValueError: If there are fewer than two samples, or data is bad.

    Example:

    ```python
    held_out_losses([greedy, top_k], probabilities, y).mean(axis=1)
    ```
    """
    p = check_probabilities(probabilities)
    y = as_labels(y, p.shape[2], p.shape[1])
    turns = [*splits(len(y), n_splits, n_repeats, random_state)]
    turns = progress(turns, len(turns), "cross-validation", verbose)
    return np.transpose(
        [_losses_of_turn(methods, p, y, *turn, scoring) for turn in turns]
    )


def splits(
    n_samples: int, n_splits: int, n_repeats: int, random_state: Any
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Go through parts to choose on, and the rests to score on."""
    if n_samples < 2:
        raise ValueError(
            "Expected at least two samples: one to choose on, one to score on. "
            f"Received: {n_samples}."
        )
    folds = RepeatedKFold(
        n_splits=min(n_splits, n_samples),
        n_repeats=n_repeats,
        random_state=random_state,
    )
    return folds.split(np.zeros(n_samples))


def held_out_loss(
    method: Callable[..., Selection],
    p: np.ndarray,
    y: np.ndarray,
    chosen_on: np.ndarray,
    scored_on: np.ndarray,
    scoring: str,
) -> float:
    """Return the loss of what a method chooses, on samples it has not seen."""
    return _losses_of_turn([method], p, y, chosen_on, scored_on, scoring)[0]


def _losses_of_turn(
    methods: Sequence[Callable[..., Selection]],
    p: np.ndarray,
    y: np.ndarray,
    chosen_on: np.ndarray,
    scored_on: np.ndarray,
    scoring: str,
) -> list[float]:
    seen = np.ascontiguousarray(p[:, chosen_on]), y[chosen_on]
    unseen = p[:, scored_on]
    losses = []
    for method in methods:
        try:
            selection = method(*seen)
        except ValueError:
            losses.append(np.nan)
            continue
        together = selection.combined(unseen)
        losses.append(float(SCORINGS[scoring](together, y[scored_on])))
    return losses


#: The measures, by the names of the attributes that hold them.
MEASURES = {
    "accuracy": accuracy,
    "negative_log_likelihood": negative_log_likelihood,
}


@dataclass(frozen=True, eq=False)
class MemberScores:
    """Scores of ways to choose, by the number of members; see `scores_by_members`.

    Args:
        n_members: Integer array of shape `(points,)`: how many were asked for.
        n_kept: Dictionary of arrays of shape `(splits, points)`, one a method: how
            many were kept. `NaN` where the method raised a `ValueError`.
        accuracy: Dictionary of arrays of shape `(splits, points)`, one a method: the
            accuracy on the samples that were not used for choosing.
        negative_log_likelihood: The same of the negative log-likelihood.
        best_learner: Dictionary of the `accuracy` and the `negative_log_likelihood` of
            the single learner that was the most accurate on the samples for choosing,
            arrays of shape `(splits,)`.
        mean_of_all: The same of the mean of all learners.
    """

    n_members: np.ndarray
    n_kept: dict[str, np.ndarray]
    accuracy: dict[str, np.ndarray]
    negative_log_likelihood: dict[str, np.ndarray]
    best_learner: dict[str, np.ndarray]
    mean_of_all: dict[str, np.ndarray]


def scores_by_members(
    probabilities: Any,
    y: Any,
    methods: Mapping[str, Callable[..., Selection]],
    *,
    n_members: Sequence[int] | None = None,
    n_resamples: int = 20,
    random_state: Any = 0,
    verbose: int = 0,
) -> MemberScores:
    """Choose on one half of the samples and score on the other, again and again.

    Each split of the samples is drawn at random and is the same for all methods and
    all numbers of members. The half to choose on is copied.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`.
        y: Labels, sparse or one-hot; see `as_labels`.
        methods: Dictionary from a name to a function
            `(probabilities, y, n_members, *, random_state) -> Selection`, such as
            `top_k`. The ensemble is the mean weighted by the selection's weights.
        n_members: Sequence of integers, how many members to ask for. Defaults to
            `None`: 1, 2, 3, 4, 6, 8, as far as there are learners.
        n_resamples: Integer. Number of splits. Defaults to `20`.
        random_state: Integer, `numpy.random.RandomState` or `None`, as in
            scikit-learn: draws the splits and a seed for the methods at each.
            Defaults to `0`.
        verbose: `1` says on standard error how far it has come. Defaults to `0`.

    Returns:
        A `MemberScores`.

    Raises:
        ValueError: If there are fewer than two samples, no splits or no methods, a
            number of members is wrong, or data is bad.

    Example:

    ```python
    scores = scores_by_members(probabilities, y, {"top_k": top_k}, n_members=[1, 4])
    scores.accuracy["top_k"].mean(axis=0)  # one value a number of members
    ```

    Reference: Arlot & Celisse, "A Survey of Cross-Validation Procedures for Model
    Selection", Statistics Surveys, 2010 (repeated hold-out).
    """
    p = check_probabilities(probabilities)
    y = as_labels(y, p.shape[2], p.shape[1])
    _check(len(y), n_resamples, methods)
    sizes = member_counts(len(p)) if n_members is None else n_members
    sizes = np.array([check_n_members(size, len(p)) for size in sizes])
    random = check_random_state(random_state)
    scores = _empty(methods, sizes, n_resamples)
    mean = mean_of(p)
    for split in progress(range(n_resamples), n_resamples, "splits", verbose):
        samples, seed = random.permutation(len(y)), random.randint(2**31 - 1)
        to_choose, to_score = np.split(samples, [len(y) // 2])
        half = p[:, to_choose], y[to_choose]
        best = p[top_k(*half, 1).indices[0]]
        _score(scores.best_learner, split, best[to_score], y[to_score])
        _score(scores.mean_of_all, split, mean[to_score], y[to_score])
        for point, size in enumerate(sizes.tolist()):
            for name, method in methods.items():
                chosen = _choose(method, half, size, seed)
                if chosen is not None:
                    scores.n_kept[name][split, point] = len(chosen.indices)
                    curves = {key: getattr(scores, key)[name] for key in MEASURES}
                    predicted = chosen.combined(p)[to_score]
                    _score(curves, (split, point), predicted, y[to_score])
    return scores


def member_counts(n_learners: int, most: int = 8) -> list[int]:
    """Give numbers of members to ask for, ever farther apart: 1, 2, 3, 4, 6, 8, 12."""
    steps = [1, 2]
    while steps[-1] < most:
        steps.append(steps[-2] * 2 if len(steps) > 2 else 3)
    return [step for step in steps if step <= min(n_learners, most)]


def mean_of(p: np.ndarray) -> np.ndarray:
    """Return the mean of what all learners predict, `(samples, classes)`."""
    return sum(block.sum(axis=0, dtype=float) for _, block in in_blocks(p)) / len(p)


def _check(n_samples: int, n_resamples: int, methods: Mapping) -> None:
    if n_samples < 2:
        raise ValueError(
            "Expected at least two samples, one to choose on and one to score on. "
            f"Received: {n_samples}."
        )
    if n_resamples < 1:
        raise ValueError(f"Expected at least one split. Received: {n_resamples=}.")
    if not methods:
        raise ValueError("Expected at least one method. Received: none.")


def _empty(methods: Mapping, sizes: np.ndarray, n_resamples: int) -> MemberScores:
    def curves():
        return {name: np.full((n_resamples, len(sizes)), np.nan) for name in methods}

    def line():
        return {name: np.empty(n_resamples) for name in MEASURES}

    return MemberScores(sizes, curves(), curves(), curves(), line(), line())


def _choose(
    method: Callable[..., Selection], half: tuple, size: int, seed: int
) -> Selection | None:
    try:
        return method(*half, size, random_state=seed)
    except ValueError:
        return None  # fewer clusters than members, say: the data itself is sound


def _score(scores: dict[str, np.ndarray], at: Any, p: np.ndarray, y: np.ndarray):
    for name, measure in MEASURES.items():
        scores[name][at] = measure(p, y)
