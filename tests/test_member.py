from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from tiny_tflite import CLASSES, SHAPE, samples, tiny_tflite

from keras_micronets.edge.member import Member, dequantize, quantize
from keras_micronets.edge.tasks import softmax


@pytest.fixture(scope="module")
def x():
    return samples()


def run_directly(model, x):
    """Return the outputs of LiteRT alone, one sample at a time."""
    interpreter = Interpreter(model_content=model)
    interpreter.allocate_tensors()
    entry, end = (
        interpreter.get_input_details()[0],
        interpreter.get_output_details()[0],
    )
    scale, zero_point = entry["quantization"]
    outputs = []
    for sample in x:
        if scale:
            steps = [
                min(127, max(-128, round(float(v / np.float32(scale))) + zero_point))
                for v in sample.flat
            ]
            sample = np.array(steps, "int8").reshape(sample.shape)
        interpreter.set_tensor(entry["index"], sample[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(end["index"])[0])
    return np.stack(outputs)


@pytest.mark.parametrize("int8", [True, False])
def test_raw_outputs_are_those_of_litert(x, int8):
    model = tiny_tflite(int8=int8)
    raw = Member(model).predict_raw(x)
    assert raw.dtype == ("int8" if int8 else "float32")
    np.testing.assert_array_equal(raw, run_directly(model, x))


def test_attributes_of_an_int8_model():
    member = Member(tiny_tflite(), name="tiny")
    assert member.name == "tiny"
    assert (member.input_shape, member.output_shape) == (SHAPE, (CLASSES,))
    assert (member.input_dtype, member.output_dtype) == ("int8", "int8")
    assert member.input_quantization[0] > 0
    assert member.output_quantization == (1 / 256, -128)


def test_attributes_of_a_float_model():
    member = Member(tiny_tflite(int8=False))
    assert (member.input_dtype, member.output_dtype) == ("float32", "float32")
    assert member.input_quantization == member.output_quantization == (0.0, 0)


def test_name_from_the_path(x, tmp_path):
    path = tmp_path / "small.tflite"
    path.write_bytes(tiny_tflite())
    member = Member(path)
    assert member.name == "small"
    expected = Member(tiny_tflite()).predict(x)
    np.testing.assert_array_equal(member.predict(x), expected)


@pytest.mark.parametrize("int8", [True, False])
@pytest.mark.parametrize("has_softmax", [True, False])
def test_probabilities(x, int8, has_softmax):
    model = tiny_tflite(int8=int8, softmax=has_softmax)
    probabilities = Member(model, from_logits=not has_softmax).predict(x)
    assert probabilities.dtype == "float32"
    assert probabilities.shape == (len(x), CLASSES)
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-6)
    expected = Member(tiny_tflite(int8=False)).predict(x)
    np.testing.assert_allclose(probabilities, expected, atol=0.05)


def test_int8_softmax_is_only_scaled(x):
    member = Member(tiny_tflite())
    steps = dequantize(member.predict_raw(x), *member.output_quantization)
    ratio = member.predict(x) / np.maximum(steps, 1e-9)
    assert np.abs(steps.sum(-1) - 1).max() <= CLASSES / 256
    expected = np.broadcast_to(1 / steps.sum(-1, keepdims=True), ratio.shape)
    np.testing.assert_allclose(ratio[steps > 0], expected[steps > 0], rtol=1e-5)


def test_logits_taken_for_probabilities_stay_visible(x):
    sums = Member(tiny_tflite(softmax=False)).predict(x).sum(-1)
    assert np.abs(sums - 1).max() > 0.1


@pytest.mark.parametrize("batch", [4, None])
def test_other_batches(x, batch):
    one = Member(tiny_tflite(int8=False)).predict(x)
    other = Member(tiny_tflite(int8=False, batch=batch))
    for n in (0, 1, 6, 16):
        np.testing.assert_allclose(other.predict(x[:n]), one[:n], atol=1e-6)


def test_quantize_rounds_half_to_even_and_clips():
    values = np.array([0.5, 1.5, 2.5, -0.5, 1e6, -1e6], "float32")
    steps = quantize(values, "int8", 1.0, 0)
    assert steps.dtype == "int8"
    assert steps.tolist() == [0, 2, 2, 0, 127, -128]
    assert quantize(values, "uint8", 1.0, 3).tolist() == [3, 5, 5, 3, 255, 0]


def test_quantize_leaves_floats():
    values = np.array([0.25, -7.5], "float32")
    np.testing.assert_array_equal(quantize(values, "float32"), values)


def test_softmax_of_large_logits_is_finite():
    probabilities = softmax(np.array([[1e4, 0, -1e4]], "float32"))
    assert probabilities.dtype == "float32"
    assert probabilities.tolist() == [[1, 0, 0]]


def test_threads_share_a_member(x):
    member = Member(tiny_tflite())
    expected = member.predict(x)
    with ThreadPoolExecutor(8) as pool:
        for probabilities in pool.map(member.predict, [x] * 32):
            np.testing.assert_array_equal(probabilities, expected)


@pytest.mark.parametrize("shape", [(), SHAPE, (2, 6, 6, 1), (2, 72)])
def test_wrong_shape(shape):
    with pytest.raises(ValueError, match=r"samples, 6, 6, 2\).*Received: shape"):
        Member(tiny_tflite()).predict(np.zeros(shape))


def test_not_a_model(tmp_path):
    path = tmp_path / "broken.tflite"
    path.write_bytes(b"not a flatbuffer")
    with pytest.raises(ValueError, match=r"broken\.tflite"):
        Member(path)
    with pytest.raises(ValueError, match=r"absent\.tflite"):
        Member(tmp_path / "absent.tflite")
    with pytest.raises(ValueError, match="'noise'"):
        Member(b"", name="noise")
    with pytest.raises(ValueError, match="'half'"):
        Member(tiny_tflite()[: len(tiny_tflite()) // 2], name="half")
