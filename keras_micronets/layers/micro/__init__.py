"""Keras layers with masks and fake quantisers: a class for each row of LiteRT's table.

Importing this package registers all of them with Keras.
"""

from keras_micronets.layers.micro import (
    activations,
    composites,
    kernel_layers,
    normalization,
    operations,
    recurrent,
)

__all__ = [
    "activations",
    "composites",
    "kernel_layers",
    "normalization",
    "operations",
    "recurrent",
]
