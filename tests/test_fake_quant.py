import keras
import numpy as np
import pytest
from backends import gradients
from keras import ops

from keras_micronets.layers import ActivationQuantizer


def quantizer(**ranges):
    made = ActivationQuantizer()
    made.build()
    made.active.assign(True)
    for name, value in ranges.items():
        getattr(made, name).assign(value)
    return made


def values(seed):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 2, (7, 5)).astype("float32")


@pytest.mark.parametrize("training", [False, True])
def test_fused_rectifier_equals_a_separate_one(training):
    x = ops.convert_to_tensor(values(0))
    at_once, apart = quantizer(upper=2.0), quantizer(upper=2.0)
    found = at_once(x, training=training, rectify=True)
    np.testing.assert_array_equal(found, apart(ops.relu(x), training=training))
    np.testing.assert_array_equal(at_once.bounds(), apart.bounds())


def test_gradients_of_a_fused_rectifier():
    x, at_once = keras.Variable(values(1)), quantizer(upper=2.0)
    weights = ops.convert_to_tensor(values(2))

    def loss():
        return ops.sum(at_once(ops.multiply(x, 1.0), rectify=True) * weights)

    (found,) = gradients(loss, [x])
    inside = (values(1) > 0) & (values(1) < 2)
    np.testing.assert_array_equal(found, np.where(inside, values(2), 0))


def test_rectifies_while_inactive_and_while_constant():
    x, made = ops.convert_to_tensor(values(3)), quantizer(upper=2.0)
    expected = made(x, rectify=True)
    made.make_constant()
    np.testing.assert_array_equal(made(x, rectify=True), expected)
    made.make_variable()
    made.active.assign(False)
    np.testing.assert_array_equal(made(x, rectify=True), ops.relu(x))
