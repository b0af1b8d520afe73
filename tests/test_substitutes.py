"""Functions of Keras that the converter rejects, and others that it takes."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_micronets import export_tflite
from keras_micronets.export.conversion.converter import convert
from keras_micronets.export.conversion.substitutes import substitutes
from keras_micronets.export.tflite_model import TFLiteModel
from keras_micronets.layers import prepare, set_quantizers

pytestmark = pytest.mark.tensorflow
SHAPE = (6, 5, 4)


def images(n=32):
    return np.random.default_rng(0).normal(size=(n, *SHAPE)).astype("float32")


def segmentation(function, **options):
    inputs = keras.Input(SHAPE)
    scores = layers.Conv2D(5, 3, padding="same")(inputs)
    return keras.Model(inputs, getattr(ops, function)(scores, **options))


FORMS = ({"axis": -1}, {"axis": 1}, {"axis": -1, "keepdims": True})


@pytest.mark.parametrize("options", FORMS, ids=str)
@pytest.mark.parametrize("quantization", ["int8", "dynamic", None])
@pytest.mark.parametrize("function", ["argmax", "argmin"])
def test_indices_at_the_output(function, quantization, options, tmp_path):
    model, path = segmentation(function, **options), tmp_path / "m.tflite"
    prepare(model, quantize=True)
    set_quantizers(model, quantization == "int8")
    model(images(), training=True)
    report = export_tflite(model, path, quantization=quantization)
    raw = TFLiteModel(path.read_bytes(), "m").run([images()])[0]
    expected = model.predict(images(), verbose=0)
    assert raw.dtype == expected.dtype == "int32"
    equal = 0.98 if quantization == "dynamic" else 1.0  # it rounds the inputs, too
    assert np.mean(raw == expected) >= equal
    assert report.top1_agreement >= equal
    assert report.share_within_one_step is None
    assert quantization != "int8" or not report.float_operations


def test_indices_within_a_custom_layer():
    class Predicted(layers.Layer):
        def call(self, x):
            return ops.cast(ops.argmax(x, axis=-1), "float32")

    model = keras.Sequential([keras.Input((7,)), layers.Dense(5), Predicted()])
    file = TFLiteModel(convert(model, quantization=None), "m")
    x = np.random.default_rng(0).normal(size=(50, 7)).astype("float32")
    np.testing.assert_array_equal(file.run([x])[0], model.predict(x, verbose=0))


def test_the_report_counts_equal_indices(tmp_path):
    model = segmentation("argmax", axis=-1)
    report = export_tflite(model, tmp_path / "m.tflite", representative_data=images())
    file = TFLiteModel((tmp_path / "m.tflite").read_bytes(), "m")
    equal = file.run([images()])[0] == model.predict(images(), verbose=0)
    assert report.top1_agreement == equal.mean() > 0.9


def test_keras_is_unchanged_afterwards():
    before = ops.argmax(np.array([-0.0, 0.0], "float32"))
    with pytest.raises(ValueError, match="converter can convert"):
        convert(dilated(), quantization=None)
    assert ops.argmax(np.array([-0.0, 0.0], "float32")) == before == 1


def dilated():
    layer = layers.Conv2DTranspose(2, 3, dilation_rate=2)
    return keras.Sequential([keras.Input(SHAPE), layer])


@pytest.mark.parametrize("name", sorted(set(substitutes()) - {"argmax", "argmin"}))
def test_elementwise_functions(name):
    function = getattr(ops, name)
    model = keras.Sequential([keras.Input((200,)), layers.Lambda(function)])
    lower, upper = {"arccosh": (1.01, 9), "tan": (-9, 9)}.get(name, (-0.99, 0.99))
    x = np.linspace(lower, upper, 200, dtype="float32")[None]
    (y,) = TFLiteModel(convert(model, quantization=None), name).run([x])
    expected = getattr(np, name)(x.astype("float64"))
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("keepdims", [True, False])
@pytest.mark.parametrize("axis", [None, 0, -2])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int32", "uint8"])
def test_every_form_of_an_index(axis, keepdims, dtype):
    x = np.random.default_rng(0).integers(0, 9, (4, 5, 6)).astype(dtype)
    for name in ("argmax", "argmin"):
        index = substitutes()[name](x, axis=axis, keepdims=keepdims)
        assert index.dtype == "int32"
        expected = getattr(np, name)(x, axis=axis, keepdims=keepdims)
        np.testing.assert_array_equal(index, expected)
