"""The full pipeline on one problem: train, prune, quantise, select, export, run."""

from keras_micronets.quickstart.run import (
    QuickstartResult,
    Score,
    run_bundle,
    run_quickstart,
)
from keras_micronets.quickstart.training import Problem, load_problem, small_cnn

__all__ = [
    "Problem",
    "QuickstartResult",
    "Score",
    "load_problem",
    "run_bundle",
    "run_quickstart",
    "small_cnn",
]
