"""Keras layers with masks and fake quantisers: a class for each row of LiteRT's table.

Importing this package registers all of them with Keras.
"""

from keras_micronets.layers.micro import (
    activations,
    kernel_layers,
    normalization,
    operations,
)

__all__ = ["activations", "kernel_layers", "normalization", "operations"]
