import keras
import numpy as np
import pytest
from backends import BACKEND, gradients
from keras import layers, ops

import keras_micronets as kmn
from keras_micronets.layers import ActivationQuantizer
from keras_micronets.layers.litert.fake_quant import (
    quantize_activation,
    quantize_kernel,
)


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


def grid_of(lower, upper, levels):
    """The range that holds zero exactly, the step and its inverse, in 32 bits."""
    lower, upper, levels = map(np.float32, (lower, upper, levels))
    step, inverse = (upper - lower) / levels, levels / (upper - lower)
    below = np.round(np.clip(-lower / step, 0, levels))
    return -below * step, (levels - below) * step, step, inverse


def by_hand(x, grid):
    lower, upper, step, inverse = grid
    zero = np.floor(-lower * inverse + np.float32(0.5))
    steps = (np.clip(x, lower, upper) - lower) * inverse
    return np.floor((steps - zero) + np.float32(0.5)) * step


def hard_values(grid):
    """Halves, borders and their neighbours, extremes, and random values."""
    lower, upper, step, _ = grid
    halves = lower + (np.arange(-3, 259, dtype="float32") + np.float32(0.5)) * step
    borders = np.array([lower, upper, 0.0, -0.0], "float32")
    some = np.random.default_rng(0).normal(0, 2, 200_000).astype("float32")
    x = np.concatenate([halves, borders, some, np.float32([-3e38, 3e38])])
    near = [np.nextafter(x[:270], np.float32(to)) for to in (-np.inf, np.inf)]
    x = np.concatenate([x, *near])
    # XLA takes the smallest numbers for zero.
    return np.where(
        (x != 0) & (np.abs(x) < 1e-30), np.copysign(np.float32(1e-30), x), x
    )


def check_equal(found, expected, step):
    """PyTorch computes as NumPy does; XLA multiplies and adds in one operation."""
    found = ops.convert_to_numpy(found)
    if BACKEND == "torch":
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(found, expected, atol=1.01 * np.max(step))
    assert np.mean(np.abs(found - expected) > 0.01 * step) < 1e-3


RANGES = [(0.0, 2.0, 8), (-1.3, 2.7, 8), (-4.0, 0.0, 8), (-0.7, 3.1, 4), (0.0, 6.3, 2)]


@pytest.mark.parametrize("rectify", [False, True])
@pytest.mark.parametrize(("lower", "upper", "bits"), RANGES)
def test_activations_and_their_gradients_by_hand(lower, upper, bits, rectify):
    if rectify and lower < 0:
        pytest.skip("a rectified tensor has a lower bound of zero")
    grid = grid_of(lower, upper, 2**bits - 1)
    x = hard_values(grid)
    variable = keras.Variable(x)
    weights = np.random.default_rng(1).normal(size=x.shape).astype("float32")
    bounds = ops.convert_to_tensor(lower), ops.convert_to_tensor(upper)

    def rounded():
        inputs = ops.multiply(variable, 1.0)
        return quantize_activation(inputs, *bounds, bits=bits, rectify=rectify)

    expected = by_hand(np.maximum(x, 0) if rectify else x, grid)
    check_equal(rounded(), expected, grid[2])
    (found,) = gradients(lambda: ops.sum(ops.multiply(rounded(), weights)), [variable])
    inside = (x >= grid[0]) & (x <= grid[1]) & ((x > 0) | (not rectify))
    np.testing.assert_array_equal(found, np.where(inside, weights, 0))


@pytest.mark.parametrize(("axis", "bits"), [(None, 8), (-1, 8), (-1, 4)])
def test_kernels_and_their_gradients_by_hand(axis, bits):
    kernel = np.random.default_rng(2).normal(0, 0.3, (9, 64, 32)).astype("float32")
    others = None if axis is None else tuple(i for i in range(3) if i != axis % 3)
    limit = np.abs(kernel).max(others)
    largest = np.float32(2 ** (bits - 1) - 1)
    wide = limit if axis is None else np.expand_dims(limit, others)
    step, inverse = 2 * wide / (2 * largest), 2 * largest / (2 * wide)
    expected = by_hand(kernel, (-step * largest, step * largest, step, inverse))
    variable = keras.Variable(kernel)

    def rounded():
        limits = ops.convert_to_tensor(limit)
        return quantize_kernel(variable.value, limits, axis=axis, bits=bits)

    check_equal(rounded(), expected, step)
    (found,) = gradients(lambda: ops.sum(ops.multiply(rounded(), kernel)), [variable])
    largest = np.abs(kernel) == wide  # may lie a rounding error outside, on JAX
    equal = (found == kernel) | (largest & (BACKEND == "jax"))
    assert np.all(equal)


def test_biases_are_trained_while_quantisers_are_active():
    model = keras.Sequential([keras.Input((4, 4, 2)), layers.Conv2D(3, 3)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    kmn.layers.prepare(model, quantize=True)
    x = np.random.default_rng(3).normal(size=(8, 4, 4, 2)).astype("float32")
    y = np.ones((8, 2, 2, 3), "float32")
    model.fit(x, y, verbose=0, callbacks=[kmn.callbacks.QuantizationAwareTraining()])
    assert np.all(ops.convert_to_numpy(model.layers[0].bias) != 0)
