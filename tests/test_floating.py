"""`prepare` announces all operations that a file computes in float, and no others.

The file computes these as Keras does, and rounds where Keras does.
"""

import re
import warnings

import keras
import numpy as np
import pytest
from keras import activations, layers
from tiny_keras import dense_model

from keras_micronets import export_tflite
from keras_micronets.callbacks import QuantizationAwareTraining
from keras_micronets.export.tflite_model import TFLiteModel
from keras_micronets.layers import prepare, set_quantizers


class Centred(keras.layers.Layer):
    def call(self, x):
        return x - keras.ops.mean(x, axis=-1, keepdims=True)


class Unchanged(keras.layers.Layer):
    def call(self, x):
        return x


SLOPES = keras.initializers.RandomUniform(-0.5, 0.5)

# Name: function of a tensor `(batch, 9, 4)`, and the reason that is reported if
# LiteRT has no integer kernel for its layer.
CASES = {
    "elu layer": (lambda x: layers.ELU()(x), "(ELU): no quantised micro layer"),
    "prelu": (lambda x: layers.PReLU(SLOPES)(x), None),
    "relu to 3": (lambda x: layers.ReLU(3.0)(x), "(ReLU): .* no integer ReLU"),
    "leaky to 6": (lambda x: layers.ReLU(6.0, 0.1)(x), "(ReLU): .* no integer ReLU"),
    "leaky": (lambda x: layers.ReLU(negative_slope=0.1)(x), None),
    "relu from 1": (
        lambda x: layers.ReLU(threshold=1.0)(x),
        "(ReLU): .* no integer ReLU",
    ),
    "softmax": (lambda x: layers.Softmax()(x), None),
    "layer normalisation": (
        lambda x: layers.LayerNormalization()(x),
        "(LayerNormalization): no quantised micro layer",
    ),
    "group normalisation": (
        lambda x: layers.GroupNormalization(2)(x),
        "(GroupNormalization): no quantised micro layer",
    ),
    "unit normalisation": (
        lambda x: layers.UnitNormalization()(x),
        "(UnitNormalization): no quantised micro layer",
    ),
    "layer of the user": (
        lambda x: Centred()(x),
        "(Centred): no quantised micro layer",
    ),
    "only in training": (
        lambda x: layers.Reshape((9, 4))(Unchanged()(x)),
        "(Unchanged): no quantised micro layer",
    ),
    "augmentation": (
        lambda x: layers.RandomContrast(0.2)(
            layers.RandomFlip()(layers.Reshape((3, 3, 4))(x))
        ),
        None,
    ),
    "noise": (lambda x: layers.GaussianNoise(0.1)(x), None),
    "bilinear": (
        lambda x: layers.UpSampling2D(interpolation="bilinear")(
            layers.Reshape((3, 3, 4))(x)
        ),
        None,
    ),
    "sum of three": (lambda x: layers.Add()([x, layers.ReLU()(x), x]), None),
    "attention": (lambda x: layers.MultiHeadAttention(2, 3)(x, x), None),
    "attention along two axes": (
        lambda x: layers.Reshape((9, 4))(
            layers.MultiHeadAttention(2, 3)(*[layers.Reshape((3, 3, 4))(x)] * 2)
        ),
        "(MultiHeadAttention): .* along several axes",
    ),
}
INTEGER = (
    *("exponential", "gelu", "hard_silu", "hard_tanh", "leaky_relu", "linear"),
    *("log_softmax", "relu", "relu6", "sigmoid", "silu", "soft_shrink", "softmax"),
    *("tanh", "tanh_shrink"),
)
INEXACT = ("prelu", "sum of three")
# They have arguments, or change the number of channels.
OTHERS = ("deserialize", "get", "glu", "serialize", "threshold")


def activation(name):
    return lambda x: layers.Activation(name)(x)


def within_dense(name):
    return lambda x: layers.Dense(4, name)(x)


for name, function in vars(activations).items():
    if not callable(function) or name in OTHERS or name.startswith("_"):
        continue
    name = function.__name__  # not the alias
    floating = f" .* integer {name}" if name not in INTEGER else None
    CASES[name] = activation(name), floating and f"(Activation):{floating}"
    CASES[f"{name} in dense"] = within_dense(name), floating and f"(Dense):{floating}"


def around(build):
    inputs = keras.Input((9, 4))
    x = layers.Flatten()(build(layers.Dense(4)(inputs)))
    return keras.Model(inputs, layers.Dense(3)(x))


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize("case", CASES)
def test_float_operations_were_announced(case, tmp_path):
    build, announced = CASES[case]
    model = around(build)
    floating = prepare(model, quantize=True).floating
    set_quantizers(model, True)
    x = 1.5 * np.random.default_rng(0).normal(size=(64, 9, 4)).astype("float32")
    model(x, training=True)
    path = tmp_path / "model.tflite"
    report = export_tflite(model, path, representative_data=x)
    in_float = announced and case != "only in training"
    assert bool(report.float_operations) == bool(in_float)
    assert len(floating) == (1 if announced else 0)
    if announced:
        kind, reason = announced.split(": ")
        assert f" {kind}: " in floating[0]
        assert re.search(reason, floating[0])
    if case not in INEXACT:
        assert_predicts_as(model, path, x)


def assert_predicts_as(model, path, x):
    """Assert that nearly all integers of a file are those that a model predicts."""
    file = TFLiteModel(path.read_bytes(), "model")
    predicted = file.outputs[0].quantize(model.predict(x, verbose=0))
    difference = np.abs(predicted.astype(int) - file.run([x])[0])
    assert np.mean(difference == 0) >= 0.99
    assert difference.max() <= 1


@pytest.mark.tensorflow
def test_means_of_masked_steps_stay_in_float(tmp_path):
    inputs = keras.Input((16,), dtype="int32")
    words = layers.Embedding(50, 12, mask_zero=True)(inputs)
    mean = layers.GlobalAveragePooling1D(name="mean")(words)
    model = keras.Model(inputs, layers.Dense(4)(mean))
    floating = prepare(model, quantize=True).floating
    reason = "LiteRT has no integer kernel that takes a mask"
    assert f"mean (GlobalAveragePooling1D): {reason}" in floating
    set_quantizers(model, True)
    x = np.random.default_rng(0).integers(0, 50, (64, 16), "int32")
    model(x, training=True)
    report = export_tflite(model, tmp_path / "model.tflite", representative_data=x)
    assert report.float_operations
    assert_predicts_as(model, tmp_path / "model.tflite", x)


@pytest.mark.tensorflow
@pytest.mark.parametrize("activation", ["relu", "softplus"])
def test_a_spectral_normalisation_is_announced_as_its_layer(activation, tmp_path):
    inputs = keras.Input((8,))
    x = layers.SpectralNormalization(layers.Dense(5, activation), name="norm")(inputs)
    model = keras.Model(inputs, layers.Dense(3)(x))
    floating = prepare(model, quantize=True).floating
    set_quantizers(model, True)
    x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    model(x, training=True)
    report = export_tflite(model, tmp_path / "model.tflite", representative_data=x)
    reason = "norm (SpectralNormalization): LiteRT has no integer softplus"
    assert floating == ((reason,) if activation == "softplus" else ())
    assert bool(report.float_operations) == bool(floating)
    assert_predicts_as(model, tmp_path / "model.tflite", x)


def warnings_of_the_callback(model):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        QuantizationAwareTraining().prepare(model)
    return [str(w.message) for w in caught if w.category is UserWarning]


def test_the_callback_warns_once():
    model = dense_model(activation="softplus")
    (message,) = warnings_of_the_callback(model)
    assert message.endswith("in float: head (Dense): LiteRT has no integer softplus")
    assert not warnings_of_the_callback(model)


def test_the_callback_warns_of_unfused_normalisations():
    norm = layers.BatchNormalization(name="norm")
    kernel = layers.Dense(4, "relu")
    model = keras.Sequential([keras.Input((8,)), kernel, norm, layers.Dense(3)])
    (message,) = warnings_of_the_callback(model)
    assert "after an activation" in message
    assert message.endswith(": norm")
    assert not warnings_of_the_callback(model)
