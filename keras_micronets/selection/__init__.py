"""Select the members of an ensemble from the predictions of many learners."""

from keras_micronets.edge.combine import combine
from keras_micronets.selection import diversity
from keras_micronets.selection.budget import within_budget
from keras_micronets.selection.clustering.cluster import cluster, cluster_labels
from keras_micronets.selection.clustering.forward import cluster_then_forward
from keras_micronets.selection.combination import as_combined, fit_weights
from keras_micronets.selection.cross_validation import (
    MemberScores,
    held_out_losses,
    scores_by_members,
)
from keras_micronets.selection.diversity import disagreement
from keras_micronets.selection.early_exit import choose_early_exit
from keras_micronets.selection.estimator import EnsembleSelector
from keras_micronets.selection.methods import METHODS, TRIED, as_method, auto
from keras_micronets.selection.metrics import (
    accuracy,
    adaptive_calibration_error,
    area_under_risk_coverage,
    brier_score,
    expected_calibration_error,
    negative_log_likelihood,
    ood_auroc,
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
from keras_micronets.selection.report.page import write_report
from keras_micronets.selection.report.pair_plots import (
    plot_dendrogram,
    plot_disagreement,
)
from keras_micronets.selection.report.plots import (
    plot_accuracy_bytes,
    plot_curves,
    plot_map,
    plot_reliability,
)
from keras_micronets.selection.report.report import LearnerRow, SelectionReport
from keras_micronets.selection.report.selection_report import (
    prediction_distances,
    prediction_map,
    selection_report,
)
from keras_micronets.selection.selection import Choice, Selection, SizeChoice
from keras_micronets.selection.spread_scale import choose_spread_scale
from keras_micronets.selection.targets import Targets
from keras_micronets.selection.temperature import (
    apply_temperature,
    calibrated_negative_log_likelihood,
    choose_temperature,
    fit_temperature,
)
from keras_micronets.selection.validation import as_labels, check_probabilities

__all__ = [
    "METHODS",
    "TRIED",
    "Choice",
    "EnsembleSelector",
    "LearnerRow",
    "MemberScores",
    "Selection",
    "SelectionReport",
    "SizeChoice",
    "Targets",
    "accuracy",
    "adaptive_calibration_error",
    "apply_temperature",
    "area_under_risk_coverage",
    "as_combined",
    "as_labels",
    "as_method",
    "auto",
    "backward_elimination",
    "brier_score",
    "calibrated_negative_log_likelihood",
    "check_probabilities",
    "choose_early_exit",
    "choose_spread_scale",
    "choose_temperature",
    "cluster",
    "cluster_labels",
    "cluster_then_forward",
    "combine",
    "complementariness",
    "disagreement",
    "diversity",
    "drep",
    "epic",
    "expected_calibration_error",
    "fit_temperature",
    "fit_weights",
    "greedy",
    "held_out_losses",
    "kappa_pruning",
    "margin_distance",
    "mdep",
    "negative_log_likelihood",
    "ood_auroc",
    "orientation_ordering",
    "plot_accuracy_bytes",
    "plot_curves",
    "plot_dendrogram",
    "plot_disagreement",
    "plot_map",
    "plot_reliability",
    "prediction_distances",
    "prediction_map",
    "random_k",
    "reduced_error",
    "scores_by_members",
    "selection_report",
    "top_k",
    "within_budget",
    "write_report",
]
