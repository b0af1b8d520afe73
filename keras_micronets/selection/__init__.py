"""Which learners to keep: arrays in, indices and weights out."""

from keras_micronets.selection.clustering import cluster
from keras_micronets.selection.metrics import (
    accuracy,
    disagreement,
    expected_calibration_error,
    negative_log_likelihood,
)
from keras_micronets.selection.ordering.controls import random_k, top_k
from keras_micronets.selection.report.mapping import (
    prediction_distances,
    prediction_map,
)
from keras_micronets.selection.report.pictures import plot_accuracy_bytes, plot_map
from keras_micronets.selection.report.report import LearnerRow, SelectionReport
from keras_micronets.selection.report.reporting import selection_report
from keras_micronets.selection.selection import Selection
from keras_micronets.selection.validation import as_labels, check_probabilities
from keras_micronets.selection.weighting import fit_weights

__all__ = [
    "LearnerRow",
    "Selection",
    "SelectionReport",
    "accuracy",
    "as_labels",
    "check_probabilities",
    "cluster",
    "disagreement",
    "expected_calibration_error",
    "fit_weights",
    "negative_log_likelihood",
    "plot_accuracy_bytes",
    "plot_map",
    "prediction_distances",
    "prediction_map",
    "random_k",
    "selection_report",
    "top_k",
]
