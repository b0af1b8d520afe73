"""The whole road on one problem: train, collect, quantise, choose, export, run."""

from keras_micronets.quickstart.problem import Problem, load_problem
from keras_micronets.quickstart.result import QuickstartResult
from keras_micronets.quickstart.run import run_bundle, run_quickstart
from keras_micronets.quickstart.score import Score, score
from keras_micronets.quickstart.training import (
    small_cnn,
    train_baseline,
    train_learners,
)
