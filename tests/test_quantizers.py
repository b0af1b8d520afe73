import numpy as np
import pytest
from model_cases import images, outputs, residual

from keras_micronets.layers import (
    constant_quantizers,
    prepare,
    quantized_share,
    set_quantizers,
)
from keras_micronets.layers.quantization import quantizers


@pytest.fixture
def model():
    model = residual()
    prepare(model, quantize=True)
    set_quantizers(model, True)
    model(images(), training=True)
    return model


def test_switch(model):
    quantised = outputs(model)
    assert quantized_share(model) == 1.0
    set_quantizers(model, False)
    assert quantized_share(model) == 0.0
    assert np.abs(outputs(model) - quantised).max() > 0


def test_share_of_a_plain_model():
    assert quantized_share(residual()) == 0.0


def test_each_quantiser_is_listed_once(model):
    found = quantizers(model)
    assert len({id(quantizer) for quantizer in found}) == len(found)


def test_constant_quantisers_compute_the_same(model):
    expected = outputs(model)
    with constant_quantizers(model):
        np.testing.assert_array_equal(outputs(model), expected)
    np.testing.assert_array_equal(outputs(model), expected)


def test_constant_and_off_is_the_plain_model(model):
    quantised = outputs(model)
    set_quantizers(model, False)
    expected = outputs(model)
    set_quantizers(model, True)
    with constant_quantizers(model, keep=False):
        np.testing.assert_array_equal(outputs(model), expected)
    np.testing.assert_array_equal(outputs(model), quantised)


def test_quantisers_are_variable_again_after_an_error(model):
    with pytest.raises(RuntimeError), constant_quantizers(model):
        raise RuntimeError
    assert all(quantizer.constant is None for quantizer in quantizers(model))
