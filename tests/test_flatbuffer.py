import gzip

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from tiny_tflite import tiny_tflite

from keras_micronets.export.conversion.converter import convert
from keras_micronets.export.flatbuffer import gzip_size, read_flatbuffer


def test_sizes():
    content = tiny_tflite()
    flatbuffer = read_flatbuffer(content)
    assert flatbuffer.n_bytes == len(content)
    assert flatbuffer.gzip_bytes == gzip_size(content)
    assert flatbuffer.gzip_bytes == len(gzip.compress(content, 9, mtime=0))


@pytest.mark.parametrize("int8", [True, False])
def test_operations(int8):
    content = tiny_tflite(int8=int8)
    interpreter = Interpreter(
        model_content=content, experimental_op_resolver_type=no_delegate()
    )
    names = [op["op_name"] for op in interpreter._get_ops_details()]
    flatbuffer = read_flatbuffer(content)
    assert dict(flatbuffer.operations) == {n: names.count(n) for n in set(names)}
    expected = {} if int8 else dict(flatbuffer.operations)
    assert dict(flatbuffer.float_operations) == expected
    assert bool(flatbuffer.int8_weights) == int8


def no_delegate():
    from ai_edge_litert.interpreter import OpResolverType

    return OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES


def test_weights_match_litert():
    content = tiny_tflite()
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    tensors = {t["name"]: t["index"] for t in interpreter.get_tensor_details()}
    weights = read_flatbuffer(content).int8_weights
    assert weights
    for name, values in weights.items():
        assert values.dtype == "int8"
        np.testing.assert_array_equal(values, interpreter.get_tensor(tensors[name]))


@pytest.mark.tensorflow
def test_float_operations_between_integer_ones_are_counted():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    flatbuffer = read_flatbuffer(convert(model, quantization=None))
    assert flatbuffer.float_operations == {"FULLY_CONNECTED": 1}
