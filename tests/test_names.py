import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from model_cases import images, residual

from keras_micronets.edge.member import Member
from keras_micronets.export.conversion import converter
from keras_micronets.export.flatbuffer import read_flatbuffer, shorten_names
from keras_micronets.layers import prepare, set_quantizers

pytestmark = pytest.mark.tensorflow


@pytest.fixture
def long(monkeypatch):
    """Return the bytes of a file as TensorFlow's converter writes it."""
    monkeypatch.setattr(converter, "shorten_names", lambda content, names: content)
    model = residual()
    prepare(model, quantize=True)
    set_quantizers(model, True)
    model(images(), training=True)
    return converter.convert(model, quantization="int8")


def tensors(content):
    (graph,) = schema.ModelT.InitFromPackedBuf(content).subgraphs
    return graph, [tensor.name.decode() for tensor in graph.tensors]


def test_tensors_are_named_after_layers(long):
    graph, before = tensors(long)
    _, after = tensors(shorten_names(long))
    ends = {*graph.inputs, *graph.outputs}

    assert [before[i] for i in ends] == [after[i] for i in ends]
    assert len(set(after)) == len(after)
    assert any(name.startswith("conv1") for name in after)
    assert max(len(name) for i, name in enumerate(after) if i not in ends) < 20
    assert max(len(name) for i, name in enumerate(before) if i not in ends) > 100


def test_nothing_else_differs(long):
    short = shorten_names(long)
    before, after = read_flatbuffer(long), read_flatbuffer(short)

    np.testing.assert_array_equal(
        Member(short).predict_raw(images()), Member(long).predict_raw(images())
    )
    assert after.operations == before.operations
    for one, other in zip(
        before.int8_weights.values(), after.int8_weights.values(), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_a_file_gets_smaller_once(long):
    short = shorten_names(long)

    assert len(short) < 0.85 * len(long)
    assert len(shorten_names(short)) == len(short)


def test_constants_are_aligned(long):
    model = schema.Model.GetRootAs(shorten_names(long))
    buffers = [model.Buffers(i) for i in range(model.BuffersLength())]
    starts = [x._tab.Vector(x._tab.Offset(4)) for x in buffers if x.DataLength()]

    assert starts
    assert all(start % 16 == 0 for start in starts)
