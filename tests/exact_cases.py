"""Models whose quantisers have seen data, to compare with their files."""

import keras
import numpy as np
from keras import layers

from keras_micronets.layers import promote, set_quantizers

SHAPE = (8, 8, 3)


def images(n, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).normal(0, 1.5, (n, *shape)).astype("float32")


def conv(x, filters=6, size=3, **kwargs):
    return layers.Conv2D(filters, size, padding="same", **kwargs)(x)


def two_grids(x):
    """Two tensors that quantisers rounded, of unlike ranges."""
    return conv(x), layers.Activation("tanh")(conv(x))


def learned(build, shape=SHAPE, scheme=True):
    """Return a quantised model of what `build` makes of an input."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input(shape)
    model = keras.Model(inputs, build(inputs))
    randomize(model)
    promote(model, quantize=scheme)
    set_quantizers(model, True)
    model(images(64, shape), training=True)
    return model


def randomize(model):
    """Give biases and normalisations values as if they had been trained."""
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if getattr(layer, "bias", None) is not None:
            layer.bias.assign(rng.normal(0, 0.3, layer.bias.shape))
        if isinstance(layer, layers.BatchNormalization):
            for variable in layer.variables:
                variable.assign(rng.uniform(0.5, 1.5, variable.shape))
            if layer.scale:  # negative ones, too
                layer.gamma.assign(rng.uniform(0.5, 1.5, layer.gamma.shape) * -1)
            layer.trainable = False
