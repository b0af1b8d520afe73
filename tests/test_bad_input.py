"""Unusual weights and data give valid files, or errors that name the problem."""

from contextlib import nullcontext

import keras
import numpy as np
import pytest
from keras import layers
from model_cases import SHAPE, images

from keras_micronets import export_tflite
from keras_micronets.edge import Member
from keras_micronets.layers import prepare, set_quantizers

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

KINDS = {
    "dense": lambda x: layers.Dense(5, name="odd")(layers.Flatten()(x)),
    "conv": lambda x: layers.BatchNormalization(name="norm")(
        layers.Conv2D(4, 3, name="odd")(x)
    ),
    "depthwise": lambda x: layers.DepthwiseConv2D(3, name="odd")(x),
}


def without_a_channel(kernel):
    kernel = kernel.copy()
    axis = 2 if kernel.shape[-1] == 1 else -1  # depthwise, or any other
    np.moveaxis(kernel, axis, 0)[0] = 0
    return kernel


WEIGHTS = {
    "dead": lambda kernel: 0 * kernel,
    "dead channel": without_a_channel,
    "tiny": lambda kernel: 1e-12 * kernel,
    "huge": lambda kernel: 1e12 * kernel,
}
DATA = {
    "zeros": np.zeros_like(images(64)),
    "constant": np.full_like(images(64), 3.3),
    "huge": 1e12 * images(64),
    "tiny": 1e-12 * images(64),
}


def net(kind, change=None, between=None):
    """Return a model of a kernel, changed by `change`, a rectifier and a head."""
    inputs = keras.Input(SHAPE)
    x = layers.ReLU()(KINDS[kind](inputs))
    x = between(x) if between else x
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        if variable.name in ("bias", "beta"):
            variable.assign(rng.uniform(-1, 1, variable.shape))
    if change:
        kernel, *others = model.get_layer("odd").get_weights()
        model.get_layer("odd").set_weights([change(kernel), *others])
    return model


def quantised(model, *batches):
    prepare(model, quantize=True)
    set_quantizers(model, True)
    for batch in batches:
        model(batch, training=True)
    return model


def assert_sound(model, path, data):
    """Compare with Keras: exactly for learned ranges, else within a few steps."""
    after_training = export_tflite(model, path, representative_data=data)
    assert after_training.largest_difference <= 4
    report = export_tflite(quantised(model, data), path, representative_data=data)
    assert report.calibration == "learned"
    assert report.largest_difference == 0
    for found in (after_training, report):
        assert not found.float_operations


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.tflite"


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("kind", KINDS)
def test_unusual_weights(kind, weights, path):
    assert_sound(net(kind, WEIGHTS[weights]), path, images(64))


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("kind", KINDS)
def test_unusual_data(kind, data, path):
    is_tiny = data == "tiny"
    with pytest.warns(UserWarning, match="Normalise") if is_tiny else nullcontext():
        assert_sound(net(kind), path, DATA[data])


@pytest.mark.parametrize("kind", KINDS)
def test_scales_too_far_apart_are_rejected(kind, path):
    """With inputs of zero, the first kernel's large steps do not fit the next range."""
    model = net(kind, WEIGHTS["huge"])
    for candidate in (model, quantised(net(kind, WEIGHTS["huge"]), DATA["zeros"])):
        with pytest.raises(ValueError, match="extreme weights, data that activates"):
            export_tflite(candidate, path, representative_data=DATA["zeros"])
    assert not path.exists()


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("kind", ["dense", "depthwise"])
def test_a_batch_that_is_not_finite_leaves_no_trace(kind, value, path):
    bad = images(64)
    bad[3, 2, 1, 0] = value
    model = quantised(net(kind), images(64), bad)
    report = export_tflite(model, path, representative_data=images(64))
    assert report.largest_difference == 0
    with pytest.raises(ValueError, match="NaN"):
        export_tflite(net(kind), path, representative_data=bad)


def test_statistics_that_are_not_finite_are_named(path):
    bad = np.full_like(images(64), np.nan)
    with pytest.raises(ValueError, match="NaN or infinity in norm/moving_mean"):
        export_tflite(quantised(net("conv"), bad), path)
    assert not path.exists()


@pytest.mark.parametrize("batches", [[], [np.full_like(images(8), np.nan)]])
@pytest.mark.parametrize("kind", ["dense", "depthwise"])
def test_a_layer_that_saw_no_data_is_named(kind, batches, path):
    with pytest.raises(ValueError, match="input_0_quantizer', which is on and"):
        export_tflite(quantised(net(kind), *batches), path)
    assert not path.exists()


@keras.saving.register_keras_serializable("test_bad_input")
class Wave(layers.Layer):
    """An unknown layer with a weight."""

    def build(self, input_shape):
        self.pitch = self.add_weight(shape=input_shape[-1:], initializer="ones")

    def call(self, inputs):
        return keras.ops.sin(inputs * self.pitch)


@keras.saving.register_keras_serializable("test_bad_input")
class Undone(layers.Layer):
    """A layer with an operation that LiteRT lacks."""

    def call(self, inputs):
        return keras.ops.erfinv(0.9 * keras.ops.tanh(inputs))


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_layer(kind, path):
    model = net(kind, between=Wave(name="wave"))
    measured = export_tflite(model, path, representative_data=images(64))
    assert measured.share_within_one_step > 0.9
    preparation = prepare(model, quantize=True)
    assert preparation.floating == ("wave (Wave): no quantised micro layer",)
    quantised(model, images(64))
    report = export_tflite(model, path, representative_data=images(64))
    assert "SIN" in report.float_operations
    assert report.largest_difference <= 1


def test_an_operation_that_litert_lacks_is_rejected(path):
    model = net("dense", between=Undone())
    for candidate in (model, quantised(model, images(64))):
        with pytest.raises(ValueError, match="TensorFlow's converter can convert"):
            export_tflite(candidate, path, representative_data=images(64))
    assert not path.exists()


def test_an_input_with_two_ranges_has_the_wider_one(path):
    """A file stores one scale for an input, so it differs from the model."""
    inputs = keras.Input(SHAPE)
    kernel = layers.Conv2D(3, 3, padding="same", name="kernel")
    model = keras.Model(inputs, layers.Add()([kernel(inputs), inputs]))
    quantised(model, images(64))
    kernel.input_0_quantizer.upper.assign(100.0)
    with pytest.warns(UserWarning, match="differs from its simulation"):
        export_tflite(model, path)
    scale, _ = Member(path, task="regression").input_quantization
    assert scale == pytest.approx((100 - kernel.input_0_quantizer.bounds()[0]) / 255)
