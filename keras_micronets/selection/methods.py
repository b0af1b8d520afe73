"""The selection methods by name, and `auto`, which chooses one by cross-validation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from keras_micronets.selection.clustering.cluster import cluster, cluster_labels
from keras_micronets.selection.clustering.forward import cluster_then_forward
from keras_micronets.selection.cross_validation import (
    held_out_losses,
    score_fold,
    split,
)
from keras_micronets.selection.ordering.by_loss import (
    backward_elimination,
    greedy,
    reduced_error,
)
from keras_micronets.selection.ordering.by_votes import (
    complementariness,
    drep,
    epic,
    kappa_pruning,
    margin_distance,
    mdep,
    orientation_ordering,
)
from keras_micronets.selection.ordering.method import random_k, top_k
from keras_micronets.selection.selection import Choice, Selection
from keras_micronets.selection.targets import SCORINGS, Targets, check_data
from keras_micronets.selection.validation import (
    check_choice,
    check_n_members,
    progress,
)

__all__ = ["METHODS", "TRIED", "as_method", "auto"]

Method = Callable[..., Selection]

#: All methods but `auto`.
SINGLE: dict[str, Method] = {
    "top_k": top_k,
    "top_k by loss": partial(top_k, by="loss"),
    "random_k": random_k,
    "greedy": greedy,
    "greedy by error": partial(greedy, loss="error"),
    "reduced_error": reduced_error,
    "backward_elimination": backward_elimination,
    "complementariness": complementariness,
    "margin_distance": margin_distance,
    "orientation_ordering": orientation_ordering,
    "mdep": mdep,
    "epic": epic,
    "drep": drep,
    "kappa_pruning": kappa_pruning,
    "cluster": cluster,
    "cluster by loss": partial(cluster, representative="loss"),
    "cluster on log_probabilities": partial(cluster, on="log_probabilities"),
    "cluster on predictions": partial(cluster, on="predictions"),
    "cluster on disagreement": partial(cluster, distances="disagreement"),
    "cluster on double_fault": partial(
        cluster, distances="double_fault", representative="farthest"
    ),
    "prune2edge": cluster_labels,
    "cluster_then_forward": cluster_then_forward,
}

_BASELINES = ("random_k", "prune2edge")
_COSTLY = ("backward_elimination", "kappa_pruning", "cluster_then_forward")
#: The methods that `auto` compares by default: without those that only serve as
#: baselines, whose cost grows with the square of the pool, or that cross-validate.
TRIED = [name for name in SINGLE if name not in _BASELINES + _COSTLY]


def auto(
    probabilities: Any,
    y: Any,
    n_members: int | Sequence[int] = 4,
    *,
    methods: Sequence[str] | Mapping[str, Method] | None = None,
    scoring: str = "loss",
    n_splits: int = 5,
    n_repeats: int = 2,
    nested: bool = True,
    random_state: Any = None,
    verbose: int = 0,
) -> Selection:
    """Choose the method that is best in cross-validation over samples, and apply it.

    In each fold the methods select on one part of the samples and are scored on the
    rest; the best method then selects on all samples. Ties go to the first. A method
    that fails in a fold, as k-means does where too few learners differ, is excluded.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`.
        y: Labels, sparse or one-hot; see `as_labels`.
        n_members: Integer, or several to compare. Defaults to `4`.
        methods: Names in `selection.METHODS`, or a dictionary from names to functions
            with their signature. Defaults to `None`, the names in `selection.TRIED`.
        scoring: `"loss"`, the negative log-likelihood of the members' mean
            probability, or `"error"`, its error rate. Defaults to `"loss"`, which is
            less noisy with a few hundred samples.
        n_splits: Integer, the number of folds. Defaults to `5`.
        n_repeats: Integer, the number of times the samples are split. Defaults to `2`.
        nested: Boolean. Whether to estimate the selection bias by nested resampling, at
            `n_splits` times the cost. Defaults to `True`.
        random_state: As in scikit-learn, for the splits and the methods. Defaults to
            `None`, which differs from call to call.
        verbose: `0`, silent, or `1`, a line of progress. Defaults to `0`.

    Returns:
        The `Selection` of the best method. Its `choice` is a `Choice` that prints as a
        table and has the selection bias, `optimism`.

    Raises:
        ValueError: If all methods fail, there are fewer than two samples, a name is
            unknown, or the data is invalid.

    Example:

    ```python
    selection = auto(probabilities, y, n_members=[2, 4], random_state=0)
    print(selection.choice)
    ```

    Reference: Varma & Simon, "Bias in Error Estimation When Using Cross-Validation for
    Model Selection", BMC Bioinformatics 2006.
    """
    p, y = check_data(probabilities, y)
    counts = np.atleast_1d(n_members).tolist()
    counts = [check_n_members(count, len(p)) for count in counts]
    check_choice("scoring", scoring, SCORINGS)
    seed = int(check_random_state(random_state).randint(2**31 - 1))
    comparison = _Comparison(methods, counts, seed)
    options = {"scoring": scoring, "n_splits": n_splits, "random_state": seed}
    choice = comparison.choose(p, y, n_repeats=n_repeats, verbose=verbose, **options)
    selection = comparison.functions[choice.chosen](p, y.argument)
    if nested:
        loss = _nested_loss(comparison, p, y, verbose=verbose, **options)
        choice = replace(choice, nested_loss=loss)
    return replace(selection, choice=choice)


METHODS: dict[str, Method] = {**SINGLE, "auto": auto}


def as_method(method: str | Method) -> Method:
    """Return a selection method by its name.

    Args:
        method: A name in `METHODS`, or a function with the signature
            `method(probabilities, y, n_members, *, random_state) -> Selection`, which
            is returned.

    Raises:
        ValueError: If the name is unknown.
        TypeError: If it is neither.

    Example:

    ```python
    as_method("top_k")(probabilities, y, 4).indices
    ```
    """
    return _look_up(method, METHODS)


class _Comparison:
    """The methods that `auto` compares, each with each number of members."""

    def __init__(self, methods: Any, counts: Sequence[int], seed: int):
        names = TRIED if methods is None else methods
        by_name = (
            dict(names)
            if isinstance(names, Mapping)
            else {name: _look_up(name, SINGLE) for name in names}
        )
        pairs = [(name, count) for count in counts for name in by_name]
        self.names, self.counts = zip(*pairs, strict=True)
        self.functions = [
            partial(by_name[name], n_members=count, random_state=seed)
            for name, count in pairs
        ]

    def choose(self, p: np.ndarray, y: Any, **options: Any) -> Choice:
        losses = held_out_losses(self.functions, p, y, **options)
        means = losses.mean(axis=1)
        if np.isnan(means).all():
            self.functions[0](p, y.argument)  # its error says more
            raise ValueError(
                "Expected a method that succeeds in every fold. Received: none among "
                f"{sorted(set(self.names))}. Give more samples, other learners, or a "
                "lower n_members."
            )
        chosen = int(np.nanargmin(means))
        return Choice(
            self.names, self.counts, losses, chosen, options["scoring"], len(y)
        )


def _nested_loss(
    comparison: _Comparison,
    p: np.ndarray,
    y: Targets,
    *,
    scoring: str,
    n_splits: int,
    random_state: int,
    verbose: int,
) -> float:
    """Return the held-out loss of the whole procedure, the choice included."""

    def procedure(p: np.ndarray, y: Any) -> Selection:
        choice = comparison.choose(
            p, y, scoring=scoring, n_splits=n_splits, random_state=random_state
        )
        return comparison.functions[choice.chosen](p, y)

    folds = split(len(y), n_splits, 1, random_state)
    folds = progress(folds, len(folds), "nested resampling", verbose)
    losses = [score_fold([procedure], p, y, *fold, scoring)[0] for fold in folds]
    return float(np.mean(losses))


def _look_up(method: str | Method, methods: Mapping[str, Method]) -> Method:
    if callable(method):
        return method
    if not isinstance(method, str):
        raise TypeError(f"Expected a name or a function. Received: {method=}.")
    check_choice("method", method, methods)
    return methods[method]
