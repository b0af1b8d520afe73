"""Callbacks of `model.fit` that prune, quantise and collect learners."""

from keras_micronets.callbacks.learner_checkpoint import LearnerCheckpoint
from keras_micronets.callbacks.quantization_aware_training import (
    QuantizationAwareTraining,
)
from keras_micronets.callbacks.weight_pruning import WeightPruning, prune
