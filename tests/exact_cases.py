"""Quantised models that have seen data, to compare with their files."""

import keras
import numpy as np
from keras import layers

from keras_micronets.export import export_tflite
from keras_micronets.layers import prepare, set_quantizers

SHAPE = (8, 8, 3)


def images(n, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).normal(0, 1.5, (n, *shape)).astype("float32")


def conv(x, filters=6, size=3, **kwargs):
    return layers.Conv2D(filters, size, padding="same", **kwargs)(x)


def two_ranges(x):
    """Two tensors that quantisers rounded, of unlike ranges."""
    return conv(x), layers.Activation("tanh")(conv(x))


def learned(build, shape=SHAPE, scheme=True):
    """Return a quantised model of `build` applied to an input."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input(shape)
    model = keras.Model(inputs, build(inputs))
    randomize(model)
    prepare(model, quantize=scheme)
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


def assert_equals_its_file(model, folder):
    """Assert that a file has the integers of its model and no float; return its report.

    Args:
        model: A model of `learned`, or one with the same inputs.
        folder: Where to write the file.
    """
    data = images(64, model.input_shape[1:], seed=2)
    report = export_tflite(model, folder / "model.tflite", representative_data=data)
    assert not report.float_operations
    assert [output.largest_difference for output in report.outputs] == [
        0 for _ in model.outputs
    ]
    return report
