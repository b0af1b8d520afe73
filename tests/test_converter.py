import sys
import weakref

import keras
import numpy as np
import pytest
from keras import layers
from model_cases import images, residual, sequential

from keras_micronets.export.conversion import converter
from keras_micronets.export.conversion.converter import INTEGERS, QUANTIZATIONS, convert
from keras_micronets.export.flatbuffer import read_flatbuffer
from keras_micronets.layers import prepare, set_quantizers
from keras_micronets.layers.quantization import quantizers

pytestmark = pytest.mark.tensorflow


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_bytes_of_a_file_with_batches_of_one(quantization):
    samples = [images()] if quantization in INTEGERS else None
    content = convert(sequential(), quantization=quantization, samples=samples)
    assert content[4:8] == b"TFL3"


def test_same_bytes_twice():
    model = residual()
    prepare(model, quantize=True)
    set_quantizers(model, True)
    model(images(), training=True)
    first, second = (convert(model, quantization="int8") for _ in range(2))
    weights = read_flatbuffer(first).int8_weights
    assert weights
    np.testing.assert_equal(weights, read_flatbuffer(second).int8_weights)
    assert len(first) == len(second)


def test_quantisers_are_trainable_again():
    model = residual()
    prepare(model, quantize=True)
    convert(model, quantization=None)
    assert all(quantizer.constant is None for quantizer in quantizers(model))


def test_converter_prints_nothing(capfd):
    model = sequential()
    capfd.readouterr()
    convert(model, quantization="dynamic")
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_stderr_comes_back_after_an_error(capfd, monkeypatch):
    def fail(*arguments):
        raise TypeError

    monkeypatch.setattr(converter, "_convert", fail)
    with pytest.raises(TypeError):
        convert(sequential(), quantization=None)
    print("still there", file=sys.stderr, flush=True)
    assert "still there" in capfd.readouterr().err


def test_graphs_are_freed_at_once(monkeypatch):
    model, graphs = residual(), []
    prepare(model, quantize=True)
    set_quantizers(model, True)
    model(images(), training=True)

    def trace(*arguments):
        function = real(*arguments)
        graphs.append(weakref.ref(function.graph))
        return function

    real = converter._trace
    monkeypatch.setattr(converter, "_trace", trace)
    convert(model, quantization="int8")
    assert [graph() for graph in graphs] == [None]


REJECTED = {
    "layer": (
        lambda x: layers.Conv2DTranspose(2, 3, dilation_rate=2, name="up")(x),
        r"LiteRT has no Conv2DBackpropInput of 'up'\. Replace",
    ),
    "operation": (keras.ops.erfinv, r"LiteRT has no Erfinv of "),
}


@pytest.mark.parametrize("case", REJECTED)
def test_errors_name_the_layer_and_no_path(case):
    build, message = REJECTED[case]
    inputs = keras.Input((6, 6, 3))
    model = keras.Model(inputs, build(inputs), name="net")
    with pytest.raises(ValueError, match=f"'net', which it rejects: {message}") as info:
        convert(model, quantization=None)
    assert ".py" not in str(info.value)


def test_other_errors_are_one_line():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, keras.ops.argmax(layers.Dense(3)(inputs), axis=-1))
    x = np.ones((4, 6), "float32")
    with pytest.raises(ValueError, match="not yet supported for op: 'ARG_MAX'") as info:
        convert(model, quantization="int16", samples=[x])
    assert "\n" not in str(info.value)
