"""Outputs and inputs that operations in float read, too, in int8 files."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_micronets.export import export_tflite
from keras_micronets.export.conversion.converter import convert
from keras_micronets.export.flatbuffer import read_flatbuffer
from keras_micronets.export.tflite_model import TFLiteModel
from keras_micronets.layers import prepare, set_quantizers
from keras_micronets.layers.quantization import quantizers

pytestmark = pytest.mark.tensorflow
FEATURES = 12


def samples(n=64):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, FEATURES)).astype("float32")


def learned(build):
    inputs = keras.Input((FEATURES,), name="features")
    model = keras.Model(inputs, build(inputs))
    prepare(model, quantize=True)
    set_quantizers(model, True)
    model(samples(), training=True)
    return model


def differences(model):
    """Return, for each output, its dtype and its difference from Keras in steps."""
    file = TFLiteModel(convert(model, quantization="int8"), model.name)
    expected = keras.tree.flatten(model(samples(), training=False))
    rows = zip(file.outputs, file.run([samples()]), expected, strict=True)
    return [
        (raw.dtype.name, np.abs(raw - info.quantize(np.asarray(y)).astype(float)).max())
        for info, raw, y in rows
    ]


def read_by_elu(x, **options):
    hidden = layers.Dense(3, **options)(x)
    return [layers.Dense(4)(layers.ELU()(hidden)), hidden]


def vae(x):
    x = layers.Dense(8, activation="relu")(x)
    mean, log_variance = layers.Dense(2)(x), layers.Dense(2)(x)
    code = mean + ops.exp(0.5 * log_variance)
    return [layers.Dense(FEATURES)(code), mean, log_variance]


def reshaped(x):
    x = layers.Reshape((3, 2))(layers.Dense(6)(x))
    return [layers.Dense(2)(layers.Flatten()(layers.ELU()(x))), x]


def added(x):
    x = layers.Add()([layers.Dense(3)(x), layers.Dense(3)(x)])
    return [x, layers.Dense(4)(layers.ELU()(x))]


def twice(x):
    x = layers.Dense(3)(x)
    return [x, x, layers.Dense(2)(layers.ELU()(x))]


def fused(x):
    return read_by_elu(x, activation="relu")


def fixed_range(x):
    return read_by_elu(x, activation="softmax")


MODELS = (read_by_elu, fused, fixed_range, vae, reshaped, added, twice)


@pytest.mark.parametrize("build", MODELS, ids=lambda build: build.__name__)
def test_an_output_that_is_read_in_float(build):
    model = learned(build)
    assert differences(model) == [("int8", 0)] * len(model.outputs)


def test_an_output_in_float_stays_in_float():
    def build(x):
        hidden = layers.Dense(3)(x)
        return [ops.sin(hidden), hidden]

    (sine, difference), hidden = differences(learned(build))
    assert (sine, hidden) == ("float32", ("int8", 0))
    assert difference < 1e-5


def test_an_input_that_is_read_in_float():
    model = learned(lambda x: [layers.Dense(3)(x), layers.Dense(4)(layers.ELU()(x)), x])
    rounded, through_float, (output, difference) = differences(model)
    assert (rounded, through_float) == (("int8", 0), ("int8", 0))
    assert (output, difference) == ("int8", 0)
    file = TFLiteModel(convert(model, quantization="int8"), model.name)
    assert [info.dtype for info in file.inputs] == ["float32"]


@pytest.mark.parametrize("batch_size", [1, None])
def test_an_input_that_integers_read_is_rounded(batch_size):
    model = learned(lambda x: layers.Reshape((2, 4))(layers.Dense(8)(x)))
    content = convert(model, quantization="int8", batch_size=batch_size)
    assert [info.dtype for info in TFLiteModel(content, "m").inputs] == ["int8"]


def test_an_input_with_two_ranges_has_the_wider_one():
    model = learned(lambda x: [layers.Dense(3)(x), layers.Dense(4)(x)])
    narrow, wide = (q for q in quantizers(model) if q.name == "input_0_quantizer")
    wide.upper.assign(2 * wide.upper)
    (info,) = TFLiteModel(convert(model, quantization="int8"), model.name).inputs
    np.testing.assert_allclose(info.limits(), wide.bounds(), atol=info.scale)
    assert info.limits()[1] > 1.5 * narrow.bounds()[1]


def test_nothing_is_left_of_the_float_ends():
    content = convert(learned(lambda x: layers.Dense(3)(x)), quantization="int8")
    assert read_flatbuffer(content).operations == {"FULLY_CONNECTED": 1}
    details = TFLiteModel(content, "m").interpreter.get_tensor_details()
    assert {d["dtype"].__name__ for d in details} == {"int8"}
    (start, *_), (end, *_) = details[:1], details[-1:]
    assert [start["name"], end["name"]] == ["inputs_0", "Identity"]


def test_bytes_are_not_cast_to_floats(tmp_path):
    inputs = keras.Input((8, 8, 3), dtype="uint8")
    x = layers.Conv2D(4, 3)(layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    prepare(model, quantize=True)
    set_quantizers(model, True)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3)).astype("uint8")
    model(pixels, training=True)
    file = TFLiteModel(convert(model, quantization="int8"), model.name)
    assert [info.dtype for info in file.inputs] == ["uint8"]
    (raw,) = file.run([pixels])
    expected = file.outputs[0].quantize(model.predict(pixels, verbose=0))
    np.testing.assert_array_equal(raw, expected)
    types = read_flatbuffer(convert(model, quantization="int8")).operations
    assert "CAST" not in types
    report = export_tflite(model, tmp_path / "model.tflite")  # compared on noise
    assert report.largest_difference == 0
