"""`EnsemblePruner`, a Keras model of the learners chosen from a pool."""

from keras_micronets.ensemble.pruner import EnsemblePruner

__all__ = ["EnsemblePruner"]
