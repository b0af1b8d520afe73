"""The single ways of choosing, by name."""

from collections.abc import Callable, Mapping
from functools import partial

from keras_micronets.selection.clustering.cluster import cluster
from keras_micronets.selection.clustering.cluster_labels import cluster_labels
from keras_micronets.selection.ordering.contributions import epic, mdep
from keras_micronets.selection.ordering.controls import random_k, top_k
from keras_micronets.selection.ordering.drep import drep
from keras_micronets.selection.ordering.elimination import backward_elimination
from keras_micronets.selection.ordering.greedy import greedy, reduced_error
from keras_micronets.selection.ordering.kappa import kappa_pruning
from keras_micronets.selection.ordering.signatures import (
    complementariness,
    margin_distance,
    orientation_ordering,
)
from keras_micronets.selection.selection import Selection

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
