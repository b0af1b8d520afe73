"""Score selection methods on samples that they have not seen."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.model_selection import RepeatedKFold
from sklearn.utils import check_random_state

from keras_micronets.selection.ordering.method import top_k
from keras_micronets.selection.selection import Selection
from keras_micronets.selection.targets import SCORINGS, Targets, check_data
from keras_micronets.selection.validation import check_n_members, in_blocks, progress

__all__ = ["MemberScores", "held_out_losses", "scores_by_members"]

Method = Callable[..., Selection]


#: The metrics of `MemberScores`, by the names of its attributes.
METRICS: dict[str, Callable[[Targets, np.ndarray], float]] = {
    "accuracy": Targets.score,
    "negative_log_likelihood": Targets.mean_loss,
}


def held_out_losses(
    methods: Sequence[Method],
    probabilities: Any,
    y: Any,
    *,
    scoring: str = "loss",
    n_splits: int = 5,
    n_repeats: int = 1,
    random_state: Any = 0,
    verbose: int = 0,
) -> np.ndarray:
    """Cross-validate selection methods over samples.

    Args:
        methods: Functions of probabilities and labels that return a `Selection`.
        probabilities: Array of shape `(learners, samples, classes)`.
        y: Labels, sparse or one-hot; see `as_labels`.
        scoring, n_splits, n_repeats, random_state, verbose: See `auto`.

    Returns:
        Float array of shape `(methods, n_splits * n_repeats)`, lower is better; NaN
        where a method raised a `ValueError`, for example because there are fewer
        learners than clusters.

    Example:

    ```python
    methods = [kmn.selection.greedy, kmn.selection.top_k]
    held_out_losses(methods, probabilities, y).mean(axis=1)
    ```
    """
    p, y = check_data(probabilities, y)
    folds = split(len(y), n_splits, n_repeats, random_state)
    folds = progress(folds, len(folds), "cross-validation", verbose)
    return np.transpose([score_fold(methods, p, y, *fold, scoring) for fold in folds])


def split(
    n_samples: int, n_splits: int, n_repeats: int, random_state: Any
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the samples to select on and the samples to score on, for each fold."""
    _check_two_samples(n_samples)
    folds = RepeatedKFold(
        n_splits=min(n_splits, n_samples),
        n_repeats=n_repeats,
        random_state=random_state,
    )
    return [*folds.split(np.zeros(n_samples))]


def score_fold(
    methods: Sequence[Method],
    p: np.ndarray,
    y: Targets,
    selected_on: np.ndarray,
    scored_on: np.ndarray,
    scoring: str,
) -> list[float]:
    """Return the held-out loss of each method in a fold, NaN where it fails."""
    seen = np.ascontiguousarray(p[:, selected_on]), y[selected_on].argument
    unseen = p[:, scored_on]
    losses = []
    for method in methods:
        try:
            selection = method(*seen)
        except ValueError:
            losses.append(np.nan)
            continue
        combined = selection.combined(unseen)
        losses.append(SCORINGS[scoring](y[scored_on], combined))
    return losses


@dataclass(frozen=True, eq=False)
class MemberScores:
    """Scores of selection methods by the number of members; see `scores_by_members`.

    Args:
        n_members: Integer array of shape `(points,)`: the requested numbers of members.
        n_kept: Dictionary of arrays of shape `(splits, points)`, one for each method:
            how many learners were kept. NaN where the method raised a `ValueError`.
        accuracy: Dictionary of arrays of shape `(splits, points)`, one for each method:
            the accuracy, or R², on the samples that were not used for selecting.
        negative_log_likelihood: The same for the loss of the task, see `Targets`.
        best_learner: Dictionary of the `accuracy` and the `negative_log_likelihood` of
            the single learner that was the most accurate on the samples for selecting,
            arrays of shape `(splits,)`.
        mean_of_all: The same for the mean of all learners.
        has_classes: Boolean, whether the learners predict classes. Defaults to `True`.
    """

    n_members: np.ndarray
    n_kept: dict[str, np.ndarray]
    accuracy: dict[str, np.ndarray]
    negative_log_likelihood: dict[str, np.ndarray]
    best_learner: dict[str, np.ndarray]
    mean_of_all: dict[str, np.ndarray]
    has_classes: bool = True


def scores_by_members(
    probabilities: Any,
    y: Any,
    methods: Mapping[str, Method],
    *,
    n_members: Sequence[int] | None = None,
    n_resamples: int = 20,
    random_state: Any = 0,
    verbose: int = 0,
) -> MemberScores:
    """Score methods by the number of members in repeated hold-out validation.

    Methods select on a random half of the samples and are scored on the other half.
    Each split is the same for all methods and numbers of members. The half to select on
    is copied.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`.
        y: Labels, sparse or one-hot; see `as_labels`.
        methods: Dictionary from a name to a function
            `(probabilities, y, n_members, *, random_state) -> Selection`, such as
            `top_k`. The ensemble is the mean weighted by the selection's weights.
        n_members: Sequence of integers, the numbers of members. Defaults to `None`: 1,
            2, 3, 4, 6, 8, up to the number of learners.
        n_resamples: Integer, the number of splits. Defaults to `20`.
        random_state: Integer, `numpy.random.RandomState` or `None`, as in
            scikit-learn: draws the splits and a seed for the methods in each.
            Defaults to `0`.
        verbose: `0`, silent, or `1`, a line of progress. Defaults to `0`.

    Returns:
        A `MemberScores`.

    Raises:
        ValueError: If there are fewer than two samples, no splits or no methods, a
            number of members is out of range, or the data is invalid.

    Example:

    ```python
    methods = {"top_k": kmn.selection.top_k}
    scores = scores_by_members(probabilities, y, methods, n_members=[1, 4])
    scores.accuracy["top_k"].mean(axis=0)  # one value for each number of members
    ```

    Reference: Arlot & Celisse, "A Survey of Cross-Validation Procedures for Model
    Selection", Statistics Surveys, 2010 (repeated hold-out).
    """
    p, y = check_data(probabilities, y)
    _check(len(y), n_resamples, methods)
    counts = member_counts(len(p)) if n_members is None else n_members
    counts = np.array([check_n_members(count, len(p)) for count in counts])
    random = check_random_state(random_state)
    scores = replace(
        _empty_scores(methods, counts, n_resamples), has_classes=y.has_classes
    )
    mean = mean_of(p)
    for i in progress(range(n_resamples), n_resamples, "splits", verbose):
        samples, seed = random.permutation(len(y)), random.randint(2**31 - 1)
        selected_on, scored_on = np.split(samples, [len(y) // 2])
        half = p[:, selected_on], y[selected_on].argument
        best = p[top_k(*half, 1).indices[0]]
        _score(scores.best_learner, i, best[scored_on], y[scored_on])
        _score(scores.mean_of_all, i, mean[scored_on], y[scored_on])
        for point, count in enumerate(counts.tolist()):
            for name, method in methods.items():
                selection = _select(method, half, count, seed)
                if selection is not None:
                    scores.n_kept[name][i, point] = len(selection.indices)
                    curves = {key: getattr(scores, key)[name] for key in METRICS}
                    combined = selection.combined(p)[scored_on]
                    _score(curves, (i, point), combined, y[scored_on])
    return scores


def member_counts(n_learners: int, most: int = 8) -> list[int]:
    """Return numbers of members at growing distances: 1, 2, 3, 4, 6, 8, 12, ..."""
    steps = [1, 2]
    while steps[-1] < most:
        steps.append(steps[-2] * 2 if len(steps) > 2 else 3)
    return [step for step in steps if step <= min(n_learners, most)]


def mean_of(p: np.ndarray) -> np.ndarray:
    """Return the mean prediction of all learners, `(samples, classes)`."""
    sums = [block.sum(axis=0, dtype=float) for _, block in in_blocks(p)]
    return np.asarray(sum(sums)) / len(p)


def _check_two_samples(n_samples: int) -> None:
    if n_samples < 2:
        raise ValueError(
            "Expected at least two samples: one to select on, one to score on. "
            f"Received: {n_samples}."
        )


def _check(n_samples: int, n_resamples: int, methods: Mapping) -> None:
    _check_two_samples(n_samples)
    if n_resamples < 1:
        raise ValueError(f"Expected at least one split. Received: {n_resamples=}.")
    if not methods:
        raise ValueError("Expected at least one method. Received: none.")


def _empty_scores(
    methods: Mapping, counts: np.ndarray, n_resamples: int
) -> MemberScores:
    def curves() -> dict[str, np.ndarray]:
        return {name: np.full((n_resamples, len(counts)), np.nan) for name in methods}

    def line() -> dict[str, np.ndarray]:
        return {name: np.empty(n_resamples) for name in METRICS}

    return MemberScores(counts, curves(), curves(), curves(), line(), line())


def _select(method: Method, half: tuple, count: int, seed: int) -> Selection | None:
    try:
        return method(*half, count, random_state=seed)
    except ValueError:
        return None  # too few clusters, say: the data itself was checked before


def _score(scores: dict[str, np.ndarray], at: Any, p: np.ndarray, y: Targets) -> None:
    for name, metric in METRICS.items():
        scores[name][at] = metric(y, p)
