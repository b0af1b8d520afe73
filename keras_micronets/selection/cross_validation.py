"""What ways of choosing are worth on samples that they have not seen."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from sklearn.model_selection import RepeatedKFold

from keras_micronets.selection.metrics import accuracy, negative_log_likelihood
from keras_micronets.selection.progress import progress
from keras_micronets.selection.selection import Selection
from keras_micronets.selection.validation import as_labels, check_probabilities


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
