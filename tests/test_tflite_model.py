import numpy as np
import pytest
from tiny_tflite import SHAPE, samples, tiny_tflite

from keras_micronets.edge import Member
from keras_micronets.export.tflite_model import TFLiteModel


@pytest.mark.parametrize(
    ("int8", "batch"), [(True, 1), (False, 1), (False, 5), (False, None)]
)
def test_runs_like_a_member(int8, batch):
    model = TFLiteModel(tiny_tflite(int8=int8, batch=batch), "tiny")
    (raw,) = model.run([samples(7)])
    expected = Member(tiny_tflite(int8=int8)).predict_raw(samples(7))
    assert raw.dtype == expected.dtype
    np.testing.assert_allclose(raw, expected, atol=1e-6)
    assert model.inputs[0].shape == (batch or 1, *SHAPE)
    assert model.inputs[0].is_open == (batch is None)


def test_limits_of_an_input():
    info = TFLiteModel(tiny_tflite(), "tiny").inputs[0]
    lower, upper = info.limits()
    assert lower < 0 < upper
    ends = np.array([lower, upper, 2 * upper], "float32")
    np.testing.assert_array_equal(info.quantize(ends), [-128, 127, 127])
    assert TFLiteModel(tiny_tflite(int8=False), "tiny").inputs[0].limits() is None


@pytest.mark.parametrize("batch", [1, None])
def test_latency(batch):
    model = TFLiteModel(tiny_tflite(int8=False, batch=batch), "tiny")
    assert 0 < model.latency() < 50
    assert model.run([samples(3)])[0].shape == (3, 3)


def test_a_file_that_does_not_load_is_named():
    with pytest.raises(ValueError, match="the bytes of 'noise'"):
        TFLiteModel(b"", "noise")
