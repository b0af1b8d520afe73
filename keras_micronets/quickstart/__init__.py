"""The whole road on one problem: train, collect, quantise, choose, export, run."""

from keras_micronets.quickstart.result import QuickstartResult, Score, score
from keras_micronets.quickstart.run import run_bundle, run_quickstart
from keras_micronets.quickstart.training import (
    Problem,
    load_problem,
    small_cnn,
    train_baseline,
    train_learners,
)
