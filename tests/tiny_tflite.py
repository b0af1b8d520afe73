"""Tiny `.tflite` models for the tests, made by TensorFlow alone."""

import functools
import warnings

import keras
import numpy as np
import pytest

SHAPE = (6, 6, 2)
CLASSES = 3


def samples(n=16, seed=0):
    return np.random.default_rng(seed).normal(size=(n, *SHAPE)).astype("float32")


@functools.cache
def tiny_tflite(seed=0, *, int8=True, softmax=True, batch=1, shape=SHAPE):
    """Return the bytes of a small convolutional classifier."""
    if keras.backend.backend() != "tensorflow":
        reason = "needs the TensorFlow backend, to make a .tflite file"
        pytest.skip(reason, allow_module_level=True)
    import tensorflow as tf
    from tensorflow.python.framework import convert_to_constants

    model = _keras_model(seed, softmax, shape)
    call = tf.function(lambda x: model(x, training=False))
    frozen = convert_to_constants.convert_variables_to_constants_v2(
        call.get_concrete_function(tf.TensorSpec((batch, *shape)))
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
    if int8:
        _ask_for_int8(converter, shape)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Statistics for quantized inputs were exp")
        return converter.convert()


def _keras_model(seed, softmax, shape):
    glorot = keras.initializers.GlorotUniform
    model = keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Conv2D(
                4, 3, activation="relu", kernel_initializer=glorot(seed + 1)
            ),
            keras.layers.Flatten(),
            keras.layers.Dense(CLASSES, kernel_initializer=glorot(seed + 1001)),
        ]
    )
    if softmax:
        model.add(keras.layers.Softmax())
    return model


def _ask_for_int8(converter, shape):
    import tensorflow as tf

    data = np.random.default_rng(0).normal(size=(64, 1, *shape)).astype("float32")
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([x] for x in data)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
