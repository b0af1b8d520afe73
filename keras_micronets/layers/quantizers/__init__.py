"""Fake quantisers of activations and kernels, and the observers of their ranges."""

from keras_micronets.layers.quantizers import observers

__all__ = ["observers"]
