"""Which learners to keep: arrays in, indices and weights out."""

from keras_micronets.edge.combine import combine
from keras_micronets.selection.choosing.auto import TRIED, auto
from keras_micronets.selection.choosing.choice import Choice
from keras_micronets.selection.choosing.methods import METHODS, as_method
from keras_micronets.selection.choosing.within_budget import within_budget
from keras_micronets.selection.clustering.cluster import cluster
from keras_micronets.selection.clustering.published import prune2edge
from keras_micronets.selection.combination import as_combined
from keras_micronets.selection.cross_validation import held_out_losses
from keras_micronets.selection.estimator import EnsembleSelector
from keras_micronets.selection.mapping import prediction_distances, prediction_map
from keras_micronets.selection.metrics import (
    accuracy,
    disagreement,
    expected_calibration_error,
    negative_log_likelihood,
)
from keras_micronets.selection.ordering.controls import random_k, top_k
from keras_micronets.selection.pictures import plot_accuracy_bytes, plot_map
from keras_micronets.selection.report import LearnerRow, SelectionReport
from keras_micronets.selection.reporting import selection_report
from keras_micronets.selection.selection import Selection
from keras_micronets.selection.validation import as_labels, check_probabilities
from keras_micronets.selection.weighting import fit_weights

__all__ = [
    "METHODS",
    "TRIED",
    "Choice",
    "EnsembleSelector",
    "LearnerRow",
    "Selection",
    "SelectionReport",
    "accuracy",
    "as_combined",
    "as_labels",
    "as_method",
    "auto",
    "check_probabilities",
    "cluster",
    "combine",
    "disagreement",
    "expected_calibration_error",
    "fit_weights",
    "held_out_losses",
    "negative_log_likelihood",
    "plot_accuracy_bytes",
    "plot_map",
    "prediction_distances",
    "prediction_map",
    "prune2edge",
    "random_k",
    "selection_report",
    "top_k",
    "within_budget",
]
