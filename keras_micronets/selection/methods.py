"""The single ways of choosing, by name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from keras_micronets.selection.clustering.cluster import cluster, cluster_labels
from keras_micronets.selection.cross_validation import (
    SCORINGS,
    held_out_loss,
    held_out_losses,
    splits,
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
from keras_micronets.selection.validation import (
    as_labels,
    check_n_members,
    check_probabilities,
    progress,
)

Method = Callable[..., Selection]

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
}


def pick(method: str | Method, among: Mapping[str, Method]) -> Method:
    """Return a way of choosing.

    Args:
        method: A name, or a function with the signature
            `method(probabilities, y, n_members, *, random_state) -> Selection`.
        among: Dictionary from names to such functions.

    Raises:
        ValueError: If the name is not known.
        TypeError: If it is neither.
    """
    if callable(method):
        return method
    if not isinstance(method, str):
        raise TypeError(f"Expected a name or a function. Received: {method=}.")
    if method not in among:
        raise ValueError(
            f"Expected a method out of {[*among]}, or a function. Received: {method=}."
        )
    return among[method]


_CONTROLS = ("random_k", "prune2edge")
_QUADRATIC = ("backward_elimination", "kappa_pruning")
#: What `auto` tries by default: not the controls, nor what grows with the square of the
#: pool.
TRIED = [name for name in SINGLE if name not in _CONTROLS + _QUADRATIC]


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
    """Choose by the method that does best in cross-validation over samples.

    Each method chooses on a part of the samples and is scored on the rest, in turns;
    the best then chooses on all of them. Ties go to the first. A method that has no
    answer somewhere, as k-means has none where fewer learners differ, is left out.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`.
        y: Labels, sparse or one-hot; see `as_labels`.
        n_members: Integer, or several to choose among. Defaults to `4`.
        methods: Names out of `selection.METHODS`, or a dictionary from names to
            functions with their signature. Defaults to `None`, those of
            `selection.TRIED`.
        scoring: `"loss"`, the negative log-likelihood of the members' mean
            probability, or `"error"`, the share that it gets wrong. Defaults to
            `"loss"`, which a few hundred samples tell more of.
        n_splits: Integer. Parts that the samples are split into. Defaults to `5`.
        n_repeats: Integer. How often they are split. Defaults to `2`.
        nested: Whether the loss of the whole procedure is estimated as well, at
            `n_splits` times the cost. Defaults to `True`.
        random_state: As in scikit-learn, for the splits and the methods. Defaults to
            `None`, which differs from call to call.
        verbose: `0`, silent, or `1`, a line of progress. Defaults to `0`.

    Returns:
        The `Selection` of the best method, its `choice` a `Choice` that prints as a
        table, with the optimism of the choice.

    Raises:
        ValueError: If no method has an answer, there are fewer than two samples, a name
            is not known, or data is bad.

    Example:

    ```python
    selection = auto(probabilities, y, n_members=[2, 4, 8], random_state=0)
    print(selection.choice)
    ```

    Reference: Varma & Simon, "Bias in Error Estimation When Using Cross-Validation for
    Model Selection", BMC Bioinformatics 2006.
    """
    p = check_probabilities(probabilities)
    y = as_labels(y, p.shape[2], p.shape[1])
    counts = [n_members] if np.ndim(n_members) == 0 else [*n_members]
    counts = [check_n_members(count, len(p)) for count in counts]
    if scoring not in SCORINGS:
        raise ValueError(
            f"Expected scoring out of {[*SCORINGS]}. Received: {scoring=}."
        )
    seed = int(check_random_state(random_state).randint(2**31 - 1))
    tried = _Tried(methods, counts, seed)
    options = {"scoring": scoring, "n_splits": n_splits, "random_state": seed}
    choice = tried.choose(p, y, n_repeats=n_repeats, verbose=verbose, **options)
    selection = tried.functions[choice.chosen](p, y)
    if nested:
        loss = _nested_loss(tried, p, y, verbose=verbose, **options)
        choice = replace(choice, nested_loss=loss)
    return replace(selection, choice=choice)


class _Tried:
    """The methods that are tried, with each number of members."""

    def __init__(self, methods: Any, counts: Sequence[int], seed: int):
        names = TRIED if methods is None else methods
        found = (
            dict(names)
            if isinstance(names, Mapping)
            else {name: pick(name, SINGLE) for name in names}
        )
        pairs = [(name, count) for count in counts for name in found]
        self.names, self.counts = zip(*pairs, strict=True)
        self.functions = [
            partial(found[name], n_members=count, random_state=seed)
            for name, count in pairs
        ]

    def choose(self, p: np.ndarray, y: np.ndarray, **options: Any) -> Choice:
        losses = held_out_losses(self.functions, p, y, **options)
        means = losses.mean(axis=1)
        if np.isnan(means).all():
            self.functions[0](p, y)  # says what is wrong
            raise ValueError(
                "Expected a method that has an answer on each part of the samples. "
                f"Received: none among {sorted(set(self.names))}. Give more samples, "
                "other learners, or a lower n_members."
            )
        chosen = int(np.nanargmin(means))
        return Choice(
            self.names, self.counts, losses, chosen, options["scoring"], len(y)
        )


def _nested_loss(
    tried: _Tried,
    p: np.ndarray,
    y: np.ndarray,
    *,
    scoring: str,
    n_splits: int,
    random_state: int,
    verbose: int,
) -> float:
    def procedure(p: np.ndarray, y: np.ndarray) -> Selection:
        choice = tried.choose(
            p, y, scoring=scoring, n_splits=n_splits, random_state=random_state
        )
        return tried.functions[choice.chosen](p, y)

    turns = [*splits(len(y), n_splits, 1, random_state)]
    turns = progress(turns, len(turns), "nested resampling", verbose)
    return float(
        np.mean([held_out_loss(procedure, p, y, *turn, scoring) for turn in turns])
    )


METHODS: dict[str, Method] = {**SINGLE, "auto": auto}


def as_method(method: str | Method) -> Method:
    """Return a way of choosing.

    Args:
        method: A name out of `METHODS`, or a function with the signature
            `method(probabilities, y, n_members, *, random_state) -> Selection`.

    Raises:
        ValueError: If the name is not known.
        TypeError: If it is neither.

    Example:

    ```python
    as_method("top_k")(probabilities, y, 4).indices
    ```
    """
    return pick(method, METHODS)
