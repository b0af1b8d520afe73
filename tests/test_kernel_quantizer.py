import keras
import numpy as np
import pytest
from backends import gradients, in_a_graph
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from keras import ops

from keras_micronets.layers import KernelQuantizer
from keras_micronets.layers.quantizers.kernel import SMALLEST_KERNEL_RANGE


def active(**kwargs):
    quantizer = KernelQuantizer(**kwargs)
    quantizer.build()
    quantizer.active.assign(True)
    return quantizer


def literal(kernel, axis=None, bits=8):
    """Round symmetrically, with one scale or one for each index of an axis."""
    levels = 2 ** (bits - 1) - 1
    kernel = kernel.astype("float64")
    others = None
    if axis is not None:
        others = tuple(i for i in range(kernel.ndim) if i != axis % kernel.ndim)
    limit = np.abs(kernel).max(axis=others, keepdims=True)
    limit = np.where(limit > 0, limit, max(np.abs(kernel).max(), SMALLEST_KERNEL_RANGE))
    step = limit / levels
    return np.rint(kernel / step) * step


def kernel_of(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((6, 5), None), ((6, 5), -1), ((3, 3, 4, 5), -1), ((3, 3, 4, 5), None)],
)
def test_rounds_as_numpy_does(shape, axis, bits):
    kernel = kernel_of(shape)
    rounded = ops.convert_to_numpy(active(axis=axis, bits=bits)(kernel))
    np.testing.assert_allclose(rounded, literal(kernel, axis, bits), atol=1e-5)


def test_zeros_stay_zero_and_the_largest_stays_itself():
    kernel = kernel_of((3, 3, 4, 5))
    kernel[kernel < 0.5] = 0
    rounded = ops.convert_to_numpy(active(axis=-1)(kernel))
    assert np.all(rounded[kernel == 0] == 0)
    np.testing.assert_allclose(
        rounded.max(axis=(0, 1, 2)), kernel.max(axis=(0, 1, 2)), rtol=1e-6
    )


def test_channel_of_zeros():
    kernel = kernel_of((3, 3, 4, 5))
    kernel[..., 2] = 0
    rounded = ops.convert_to_numpy(active(axis=-1)(kernel))
    assert np.all(rounded[..., 2] == 0)
    np.testing.assert_allclose(rounded, literal(kernel, -1), atol=1e-5)


@pytest.mark.parametrize("axis", [None, -1])
def test_kernel_of_zeros(axis):
    rounded = ops.convert_to_numpy(active(axis=axis)(np.zeros((4, 3), "float32")))
    np.testing.assert_array_equal(rounded, np.zeros((4, 3)))


@pytest.mark.parametrize("axis", [None, -1])
@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e12, 1e30])
def test_huge_and_tiny_kernels(size, axis):
    kernel = kernel_of((3, 3, 4, 5)) * np.float32(size)
    rounded = ops.convert_to_numpy(active(axis=axis)(kernel))
    step = max(np.abs(kernel).max(), SMALLEST_KERNEL_RANGE) / 127
    assert np.abs(rounded - kernel).max() <= step * 0.5001


@pytest.mark.parametrize("axis", [None, -1])
def test_a_scale_has_a_floor(axis):
    kernel = kernel_of((4, 3))
    kernel[:, -1] *= 1e-6  # a channel that trained to almost nothing
    rounded = ops.convert_to_numpy(active(axis=axis)(kernel))
    np.testing.assert_array_equal(rounded[:, -1], 0)


@pytest.mark.parametrize("axis", [None, -1])
def test_gradients_pass_straight_through(axis):
    quantizer, kernel = active(axis=axis), keras.Variable(kernel_of((4, 3)))
    weights = ops.convert_to_tensor(kernel_of((4, 3), seed=1))

    def loss():
        return ops.sum(quantizer(ops.multiply(kernel, 1.0)) * weights)

    (found,) = gradients(loss, [kernel])
    np.testing.assert_array_equal(found, weights)


def test_inactive_is_the_identity():
    quantizer = KernelQuantizer(axis=-1)
    quantizer.build()
    kernel = kernel_of((4, 3))
    np.testing.assert_array_equal(quantizer(kernel), kernel)


# PyTorch warns of Keras's custom gradients when it traces them.
@pytest.mark.filterwarnings("ignore:.*autograd.function.Function:DeprecationWarning")
def test_works_in_a_compiled_function():
    quantizer, kernel = active(axis=-1), kernel_of((4, 3))
    compiled = in_a_graph(quantizer)(ops.convert_to_tensor(kernel))
    np.testing.assert_allclose(compiled, quantizer(kernel), atol=1e-6)


def test_constant_state_is_the_present_one():
    quantizer, kernel = active(), kernel_of((4, 3))
    rounded = ops.convert_to_numpy(quantizer(kernel))
    quantizer.make_constant()
    quantizer.active.assign(False)
    np.testing.assert_array_equal(quantizer(kernel), rounded)
    quantizer.make_constant(keep=False)
    np.testing.assert_array_equal(quantizer(kernel), kernel)


def test_config_round_trip():
    config = KernelQuantizer(axis=-1, bits=4).get_config()
    assert KernelQuantizer.from_config(config).get_config() == config
    restored = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(KernelQuantizer(axis=2))
    )
    assert (restored.axis, restored.bits) == (2, 8)


QUANTIZER = []


@settings(max_examples=40, deadline=None)
@given(
    st_numpy.arrays(
        "float32",
        (3, 4),
        elements=st.floats(-100, 100, width=32, allow_subnormal=False),
    )
)
def test_rounding_errors_are_at_most_half_a_step(kernel):
    if not QUANTIZER:
        QUANTIZER.append(active(axis=-1))
    rounded = ops.convert_to_numpy(QUANTIZER[0](kernel))
    limit = np.maximum(np.abs(kernel).max(axis=0), SMALLEST_KERNEL_RANGE)
    assert np.all(np.abs(rounded - kernel) <= limit / 127 * 0.5001)
    assert np.all(rounded[kernel == 0] == 0)
