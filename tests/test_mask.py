import numpy as np
import pytest

from keras_micronets.layers import Mask


@pytest.fixture
def mask():
    mask = Mask()
    mask.build((4, 2))
    return mask


def test_keeps_every_weight_at_first(mask):
    kernel = np.arange(8, dtype="float32").reshape(4, 2)
    np.testing.assert_array_equal(mask(kernel), kernel)
    assert mask.mask.dtype == "bool"
    assert mask.trainable_variables == []


def test_removes_weights(mask):
    mask.mask.assign([[True, False]] * 4)
    np.testing.assert_array_equal(mask(np.ones((4, 2), "float32")), [[1, 0]] * 4)


def test_removes_weights_that_are_not_finite(mask):
    mask.mask.assign([[True, False]] * 4)
    kernel = np.array([[1, np.nan]] * 4, "float32")
    np.testing.assert_array_equal(mask(kernel), [[1, 0]] * 4)


def test_reset_keeps_every_weight(mask):
    mask.mask.assign(np.zeros((4, 2), bool))
    mask.reset()
    assert np.array(mask.mask).all()
