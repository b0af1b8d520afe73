"""Which learners to keep: arrays in, indices and weights out."""

from keras_micronets.selection.clustering import cluster
from keras_micronets.selection.mapping import prediction_distances, prediction_map
from keras_micronets.selection.metrics import (
    accuracy,
    disagreement,
    expected_calibration_error,
    negative_log_likelihood,
)
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
from keras_micronets.selection.pictures import plot_accuracy_bytes, plot_map
from keras_micronets.selection.report import LearnerRow, SelectionReport
from keras_micronets.selection.reporting import selection_report
from keras_micronets.selection.selection import Selection
from keras_micronets.selection.validation import as_labels, check_probabilities
from keras_micronets.selection.weighting import fit_weights

__all__ = [
    "LearnerRow",
    "Selection",
    "SelectionReport",
    "accuracy",
    "as_labels",
    "backward_elimination",
    "check_probabilities",
    "cluster",
    "complementariness",
    "disagreement",
    "drep",
    "epic",
    "expected_calibration_error",
    "fit_weights",
    "greedy",
    "kappa_pruning",
    "margin_distance",
    "mdep",
    "negative_log_likelihood",
    "orientation_ordering",
    "plot_accuracy_bytes",
    "plot_map",
    "prediction_distances",
    "prediction_map",
    "random_k",
    "reduced_error",
    "selection_report",
    "top_k",
]
