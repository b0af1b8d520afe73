"""Layers that are called twice have one range for both calls, as in files."""

import keras
import numpy as np
import pytest
from keras import layers
from model_cases import images

from keras_micronets import export_tflite
from keras_micronets.layers import prepare, set_quantizers

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]
SHAPE = (8, 8, 3)


def conv(filters=3, **kwargs):
    return layers.Conv2D(filters, 3, padding="same", **kwargs)


def twice_in_a_row(x):
    shared = conv()
    return shared(shared(x))


def unlike_inputs(x):
    """Call a layer on the model's input and on the output of a sigmoid."""
    shared = conv()
    return layers.Add()([shared(x), shared(layers.Activation("sigmoid")(x))])


def fused_at_one_call(x):
    """Normalise the output of one of two calls."""
    shared = conv()
    y = layers.ReLU()(layers.BatchNormalization()(shared(x)))
    return layers.Add()([shared(y), y])


def normalised_twice(x):
    shared, norm = conv(), layers.BatchNormalization()
    return norm(shared(norm(shared(x))))


def two_normalisations(x):
    shared = conv()
    first = layers.BatchNormalization()(shared(x))
    return layers.BatchNormalization()(shared(layers.ReLU()(first)))


def shared_rectifier(x):
    relu = layers.ReLU()
    return relu(conv()(relu(conv()(x))))


def shared_addition(x):
    add = layers.Add()
    y = add([conv()(x), x])
    return add([conv()(y), y])


def shared_model(x):
    inputs = keras.Input(SHAPE)
    y = layers.ReLU()(layers.BatchNormalization()(conv()(inputs)))
    inner = keras.Model(inputs, y)
    return inner(inner(x))


def unlike_shapes(x):
    shared = conv(3)
    pooled = shared(layers.MaxPooling2D()(x))
    return layers.Add()([layers.UpSampling2D()(pooled), shared(x)])


def shared_head(x):
    head = layers.Dense(4)
    return [head(x), head(layers.ReLU()(x))]


MODELS = (
    twice_in_a_row,
    unlike_inputs,
    fused_at_one_call,
    normalised_twice,
    two_normalisations,
    shared_rectifier,
    shared_addition,
    shared_model,
    unlike_shapes,
    shared_head,
)


@pytest.mark.parametrize("build", MODELS, ids=lambda build: build.__name__)
def test_a_shared_layer_becomes_a_valid_file(build, tmp_path):
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, build(inputs))
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if variable.name in ("bias", "beta", "moving_mean"):
            variable.assign(rng.uniform(-0.3, 0.3, variable.shape))
    assert not prepare(model, quantize=True).floating
    set_quantizers(model, True)
    data = images(64, shape=SHAPE)
    for _ in range(3):  # so that the ranges of two calls would differ
        model(data, training=True)
    report = export_tflite(model, tmp_path / "m.tflite", representative_data=data)
    assert not report.float_operations
    # A kernel of Dense layers gets other scales of the converter if it is read twice.
    assert report.largest_difference <= (1 if build is shared_head else 0)
