"""Scales near zero and huge offsets give files that compute the same."""

import keras
import numpy as np
import pytest
from exact_cases import SHAPE, assert_equals_its_file, images
from keras import layers, ops

from keras_micronets.layers import QuantizationScheme, prepare, set_quantizers
from keras_micronets.layers.litert.affine import bounded_scale
from keras_micronets.layers.quantizers.observers import LearnedStepSize


def conv(x, **kwargs):
    return layers.Conv2D(6, 3, padding="same", **kwargs)(x)


NORMALISED = {
    "convolution": conv,
    "without bias": lambda x: conv(x, use_bias=False),
    "one axis": lambda x: layers.Conv1D(5, 3)(layers.Reshape((16, 12))(x)),
    "depthwise": lambda x: layers.DepthwiseConv2D(3, depth_multiplier=2)(x),
    "separable": lambda x: layers.SeparableConv2D(5, 3)(x),
    "dense": lambda x: layers.Dense(7)(layers.Flatten()(x)),
    "transposed": lambda x: layers.Conv2DTranspose(4, 3, strides=2)(x),
    "alone": lambda x: layers.MaxPooling2D()(conv(x)),
}
# Gamma of some channels, and beta of all.
ODD = {
    "dead": (0.0, 1.0),
    "dead and rectified": (0.0, -1.0),
    "nearly dead": (1e-12, 1.0),
    "negative": (-1e-7, -3.0),
    "small": (1e-4, 1.0),
    "huge offset": (1.0, 1e6),
}

CASES = [(kind, "dead") for kind in NORMALISED]
CASES += [(kind, odd) for kind in ("convolution", "alone") for odd in [*ODD][1:]]


def made(kind, odd, scheme=True):
    keras.utils.set_random_seed(1)
    inputs = keras.Input(SHAPE)
    norm = layers.BatchNormalization()
    model = keras.Model(inputs, layers.ReLU()(norm(NORMALISED[kind](inputs))))
    gamma, beta = ODD[odd]
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if getattr(layer, "bias", None) is not None:
            layer.bias.assign(rng.normal(0, 0.3, layer.bias.shape))
    norm.gamma.assign([gamma, gamma, *rng.uniform(-2, 2, norm.gamma.shape[0] - 2)])
    norm.beta.assign(np.full(norm.beta.shape, beta))
    norm.trainable = False
    prepare(model, quantize=scheme)
    return model


def learned(*args, **kwargs):
    model = made(*args, **kwargs)
    set_quantizers(model, True)
    model(images(64), training=True)
    return model


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize(("kind", "odd"), CASES)
def test_predictions_are_those_of_the_file(kind, odd, tmp_path):
    assert_equals_its_file(learned(kind, odd), tmp_path)


@pytest.mark.tensorflow
def test_with_learned_steps(tmp_path):
    model = learned(
        "convolution", "dead", QuantizationScheme(observer=LearnedStepSize())
    )
    assert_equals_its_file(model, tmp_path)


@pytest.mark.parametrize("odd", ["dead", "nearly dead", "negative"])
@pytest.mark.parametrize("kind", ["convolution", "depthwise", "dense", "alone"])
def test_a_dead_channel_predicts_its_offset(kind, odd):
    """Inference and training agree on it, so it does not come to life."""
    model = learned(kind, odd)
    x = images(8, seed=3)
    step = float(model.layers[-1].output_quantizer.scale())
    for training in (False, True):
        outputs = ops.convert_to_numpy(model(x, training=training))[..., :2]
        expected = max(ODD[odd][1], 0.0)
        np.testing.assert_allclose(outputs, expected, atol=0.51 * step)


@pytest.mark.parametrize("kind", ["convolution", "alone"])
def test_nothing_changes_while_quantisers_are_off(kind):
    model = made(kind, "nearly dead")
    plain = ops.convert_to_numpy(model(images(4), training=True))
    found = ops.convert_to_numpy(model(images(4), training=False))
    np.testing.assert_array_equal(found, plain)


def test_ordinary_scales_stay():
    scale = np.array([1e-3, -0.5, 2.0], "float32")
    np.testing.assert_array_equal(
        bounded_scale(scale, np.zeros(3, "float32"), 1e-5), scale
    )


@pytest.mark.parametrize("offset", [0.0, 1.0, -1e6])
def test_small_scales_hold_the_offset_and_keep_their_sign(offset):
    scale = np.array([0.0, 1e-30, -1e-30], "float32")
    found = ops.convert_to_numpy(
        bounded_scale(scale, np.full(3, offset, "float32"), 1e-5)
    )
    assert list(np.sign(found)) == [1, 1, -1]
    assert (np.abs(offset) / (np.abs(found) * 1e-5) < 2**31).all()
    assert (np.abs(found) * 1e-5 > 5e-10).all()
