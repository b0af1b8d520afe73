"""How good predictors are, how honest, and whether they know what they do not know."""

from keras_micronets.selection.metrics.calibration import (
    adaptive_calibration_error,
    expected_calibration_error,
)
from keras_micronets.selection.metrics.scores import (
    EPSILON,
    accuracy,
    brier_score,
    likelihoods,
    negative_log_likelihood,
)
from keras_micronets.selection.metrics.uncertainty import (
    area_under_risk_coverage,
    ood_auroc,
)

__all__ = [
    "EPSILON",
    "accuracy",
    "adaptive_calibration_error",
    "area_under_risk_coverage",
    "brier_score",
    "expected_calibration_error",
    "likelihoods",
    "negative_log_likelihood",
    "ood_auroc",
]
