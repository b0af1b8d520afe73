"""Callbacks of `model.fit` that prune, quantise and collect learners."""

from keras_micronets.callbacks.accuracy_guard import AccuracyGuard
from keras_micronets.callbacks.channel_pruning import ChannelPruning
from keras_micronets.callbacks.cycles import masks
from keras_micronets.callbacks.cycles.cycle import Cycle
from keras_micronets.callbacks.cycles.learner_cycles import LearnerCycles
from keras_micronets.callbacks.dynamic_sparse_training import DynamicSparseTraining
from keras_micronets.callbacks.learner_checkpoint import LearnerCheckpoint
from keras_micronets.callbacks.mask_updates import (
    drop_and_regrow,
    prune,
    sparsify_at_random,
)
from keras_micronets.callbacks.quantization_aware_training import (
    QuantizationAwareTraining,
)
from keras_micronets.callbacks.weight_pruning import WeightPruning

__all__ = [
    "AccuracyGuard",
    "ChannelPruning",
    "Cycle",
    "DynamicSparseTraining",
    "LearnerCheckpoint",
    "LearnerCycles",
    "QuantizationAwareTraining",
    "WeightPruning",
    "drop_and_regrow",
    "masks",
    "prune",
    "sparsify_at_random",
]
