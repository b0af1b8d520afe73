"""Selection methods that order the learners and keep the first ones."""

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

__all__ = [
    "backward_elimination",
    "complementariness",
    "drep",
    "epic",
    "greedy",
    "kappa_pruning",
    "margin_distance",
    "mdep",
    "orientation_ordering",
    "random_k",
    "reduced_error",
    "top_k",
]
