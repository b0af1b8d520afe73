"""Combine the learners chosen from a pool into one Keras model."""

from keras_micronets.ensemble.pruner import EnsemblePruner

__all__ = ["EnsemblePruner"]
