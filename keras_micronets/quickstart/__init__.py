"""The full pipeline on one problem: train, prune, select, distil, export, run."""

from keras_micronets.quickstart.problem import Problem, load_problem
from keras_micronets.quickstart.result import QuickstartResult, Score
from keras_micronets.quickstart.run import run_bundle, run_quickstart
from keras_micronets.quickstart.training import small_cnn

__all__ = [
    "Problem",
    "QuickstartResult",
    "Score",
    "load_problem",
    "run_bundle",
    "run_quickstart",
    "small_cnn",
]
