import keras
import numpy as np
import pytest
from backends import gradients
from keras import ops

from keras_micronets.layers import ActivationQuantizer
from keras_micronets.layers.quantizers.activation import SMALLEST_RANGE
from keras_micronets.layers.quantizers.kernel import (
    SMALLEST_KERNEL_RANGE as SMALLEST_KERNEL,
)
from keras_micronets.layers.quantizers.observers import MovingAverage, Percentile


def active(**kwargs):
    quantizer = ActivationQuantizer(**kwargs)
    quantizer.build()
    quantizer.active.assign(True)
    return quantizer


def bounds(quantizer):
    return tuple(float(bound) for bound in quantizer.bounds())


def batches(n=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(0.5, 2.0, (n, 8, 3)).astype("float32")


def literal(x, lower, upper, bits=8):
    """Round to the multiples of a step size, within a range that contains zero."""
    levels = 2**bits - 1
    step = (upper - lower) / levels
    zero_point = np.rint(-lower / step)
    integers = np.clip(np.rint(x / step + zero_point), 0, levels)
    return (integers - zero_point) * step


def test_moving_average_against_numpy():
    quantizer = active(observer=MovingAverage(0.9))
    lower = upper = None
    for batch in batches():
        quantizer(batch, training=True)
        low, high = min(batch.min(), 0), max(batch.max(), 0)
        if lower is None:
            lower, upper = low, high
        else:
            lower, upper = 0.9 * lower + 0.1 * low, 0.9 * upper + 0.1 * high
        np.testing.assert_allclose(bounds(quantizer), (lower, upper), rtol=1e-6)


def test_moving_average_inside_fit():
    quantizer = active(observer=MovingAverage(0.5))
    model = keras.Sequential([keras.Input((3,)), quantizer, keras.layers.Dense(3)])
    model.compile("sgd", "mse")
    x = batches(1)[0]
    model.fit(x, x, batch_size=4, epochs=1, shuffle=False, verbose=0)
    expected = [
        0.5 * pick(x[:4].min(), x[:4].max()) + 0.5 * pick(x[4:].min(), x[4:].max())
        for pick in (lambda low, high: min(low, 0), lambda low, high: max(low, high, 0))
    ]
    np.testing.assert_allclose(bounds(quantizer), expected, rtol=1e-5)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_rounds_to_integers(bits):
    quantizer = active(bits=bits)
    x = batches(1)[0]
    y = ops.convert_to_numpy(quantizer(x, training=True))
    expected = literal(x, *bounds(quantizer), bits)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    assert len(np.unique(y)) <= 2**bits


def test_zero_stays_zero_and_all_positive_data_begins_at_zero():
    quantizer = active()
    x = np.array([[0.0, 3.0, 7.0]], "float32")
    y = ops.convert_to_numpy(quantizer(x + 2, training=True))
    assert bounds(quantizer) == (0.0, 9.0)
    assert np.all(y > 0)
    assert float(quantizer(x)[0, 0]) == 0.0


def test_clips_outside_the_range():
    quantizer = active(fixed_range=(0.0, 255 / 256))
    y = ops.convert_to_numpy(quantizer(np.array([-3.0, 0.25, 3.0], "float32")))
    np.testing.assert_allclose(y, [0.0, 0.25, 255 / 256], atol=1e-6)


def test_gradients_pass_inside_the_range_and_stop_outside():
    quantizer = active(fixed_range=(-1.0, 1.0))
    x = keras.Variable([-1.5, -0.4, 0.0, 0.3, 1.5])
    weights = ops.convert_to_tensor([1.0, 2.0, 3.0, 4.0, 5.0])

    def loss():
        return ops.sum(quantizer(ops.convert_to_tensor(x), training=True) * weights)

    (found,) = gradients(loss, [x])
    np.testing.assert_array_equal(found, [0.0, 2.0, 3.0, 4.0, 0.0])


def test_inactive_changes_and_observes_nothing():
    quantizer = ActivationQuantizer()
    quantizer.build()
    x = batches(1)[0]
    np.testing.assert_array_equal(quantizer(x, training=True), x)
    assert bounds(quantizer) == (0.0, 0.0)


def test_inference_does_not_move_the_range():
    quantizer = active()
    quantizer(batches(1)[0], training=True)
    before = bounds(quantizer)
    quantizer(batches(1)[0] * 10, training=False)
    assert bounds(quantizer) == before


def test_fixed_range_does_not_move():
    quantizer = active(fixed_range=(-1.0, 1.0))
    quantizer(batches(1)[0], training=True)
    assert bounds(quantizer) == (-1.0, 1.0)


@pytest.mark.parametrize("value", [-2.0, 0.0, 1e-12, 5.0])
def test_constant_tensors_stay_finite(value):
    quantizer = active()
    x = np.full((4, 2), value, "float32")
    y = ops.convert_to_numpy(quantizer(x, training=True))
    np.testing.assert_allclose(y, x, atol=1e-5)


NOT_FINITE = {
    "nan": [np.nan, 1.0],
    "infinite": [np.inf, 1.0],
    "minus infinite": [-np.inf, np.inf],
    "too wide for 32 bits": [-3e38, 3e38],
}


@pytest.mark.parametrize("values", NOT_FINITE.values(), ids=NOT_FINITE)
def test_a_batch_that_is_not_finite_leaves_the_range(values):
    quantizer, undisturbed = active(), active()
    first, bad, last = batches(3)
    bad[0, :2] = values
    for batch in (first, bad, last):
        quantizer(batch, training=True)
    for batch in (first, last):
        undisturbed(batch, training=True)
    assert bounds(quantizer) == bounds(undisturbed)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_batch_that_is_not_finite_where_it_rectifies(bad):
    quantizer, (x,) = active(), batches(1)
    quantizer(x, training=True, rectify=True)
    before = bounds(quantizer)
    x[0, 0] = bad
    quantizer(x, training=True, rectify=True)
    assert bounds(quantizer) == before == (0.0, pytest.approx(batches(1).max()))


def test_a_first_batch_that_is_not_finite_sets_no_range():
    quantizer, (x,) = active(), batches(1)
    quantizer(np.full((4, 2), np.nan, "float32"), training=True)
    assert bounds(quantizer) == (0.0, 0.0)
    quantizer(x, training=True)
    np.testing.assert_allclose(bounds(quantizer), (x.min(), x.max()), rtol=1e-6)


def test_a_tensor_of_zeros_gets_its_range_from_its_first_signal():
    quantizer, (x,) = active(), batches(1)
    quantizer(np.zeros((4, 2), "float32"), training=True)
    quantizer(x, training=True)
    np.testing.assert_allclose(bounds(quantizer), (x.min(), x.max()), rtol=1e-6)


def test_the_range_has_a_floor():
    quantizer = active()
    quantizer(np.full((4, 2), 1e-30, "float32"), training=True)
    lower, upper = bounds(quantizer)
    assert upper - lower == pytest.approx(SMALLEST_RANGE)
    assert (upper - lower) / 255 * SMALLEST_KERNEL / 127 > 5e-10


@pytest.mark.parametrize("rectify", [False, True])
def test_without_data_it_rounds_nothing(rectify):
    (x,) = batches(1)
    expected = np.maximum(x, 0) if rectify else x
    np.testing.assert_array_equal(active()(x, rectify=rectify), expected)


def test_an_export_without_any_data_is_rejected():
    quantizer, (x,) = active(), batches(1)
    quantizer.make_constant()
    with pytest.raises(ValueError, match="has seen no data"):
        quantizer(x)
    quantizer.make_constant(keep=False)
    np.testing.assert_array_equal(quantizer(x), x)


def test_config_round_trip():
    quantizer = ActivationQuantizer(
        fixed_range=(-1.0, 1.0), observer=Percentile(99.0), bits=4
    )
    restored = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(quantizer)
    )
    assert restored.get_config() == quantizer.get_config()
    assert restored.observer == Percentile(99.0)


def test_constant_state_is_the_present_one():
    quantizer = active()
    x = batches(1)[0]
    quantizer(x, training=True)
    expected = ops.convert_to_numpy(quantizer(x))
    quantizer.make_constant()
    quantizer.upper.assign(99.0)
    np.testing.assert_allclose(quantizer(x), expected, rtol=1e-6)
    quantizer.make_constant(keep=False)
    np.testing.assert_array_equal(quantizer(x), x)
    quantizer.make_variable()
    assert np.abs(ops.convert_to_numpy(quantizer(x)) - expected).max() > 0


def test_reset_switches_off():
    quantizer = active()
    quantizer.reset()
    assert not bool(quantizer.active.value)
