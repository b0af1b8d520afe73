import keras
import numpy as np
import pytest
from backends import BACKEND, in_a_graph
from keras import ops

from keras_micronets.layers import ActivationQuantizer
from keras_micronets.layers.quantizers.observers import MovingAverage, Percentile

VALUES = np.random.default_rng(0).normal(0.5, 2.0, (50, 6)).astype("float32")
WAYS = [MovingAverage(0.5), Percentile(99.0, 0.5), Percentile(99.0, samples=60)]


def measured(observer, x, **kwargs):
    return tuple(float(bound) for bound in observer.measure(x, **kwargs))


def test_moving_average_measures_the_extremes():
    expected = VALUES.min(), VALUES.max()
    assert measured(MovingAverage(), VALUES) == expected
    assert measured(MovingAverage(), VALUES, rectify=True) == (0.0, expected[1])


@pytest.mark.parametrize("percentile", [90.0, 99.9, 100.0])
def test_percentile_against_numpy(percentile):
    expected = np.percentile(VALUES, [100 - percentile, percentile])
    found = measured(Percentile(percentile), VALUES)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    found = measured(Percentile(percentile), VALUES, rectify=True)
    np.testing.assert_allclose(found, [0, expected[1]], rtol=1e-4)


@pytest.mark.parametrize("observer", WAYS)
@pytest.mark.parametrize("shift", [-100, 100])
def test_zero_is_within(observer, shift):
    lower, upper = measured(observer, VALUES + shift)
    assert lower <= 0 <= upper
    assert lower == 0 or upper == 0


def test_percentiles_ignore_an_outlier():
    x = VALUES.copy()
    x[3, 2] = 1e6
    assert measured(Percentile(99.0), x)[1] < 2 * VALUES.max()


def test_samples_cover_all_channels_and_the_whole_batch():
    images = np.zeros((64, 16, 16, 8), "float32")
    images += 100 * np.arange(64).reshape(-1, 1, 1, 1)
    images += np.arange(8)
    images += 10 * (np.arange(16) % 2).reshape(1, 1, 16, 1)
    lower, upper = measured(Percentile(99.0, samples=4096), images)
    assert lower == 0.0
    np.testing.assert_allclose(upper, np.percentile(images, 99), rtol=0.02)


@pytest.mark.parametrize("shape", [(4,), (3, 5, 7), (1, 9000), (2, 40, 40, 3)])
def test_percentiles_of_any_shape(shape):
    x = np.random.default_rng(1).normal(size=shape).astype("float32")
    lower, upper = measured(Percentile(100.0), x)
    assert x.min() <= lower < 0 < upper <= x.max()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_show(value):
    x = VALUES.copy()
    x[7, 1] = value
    assert not np.isfinite(np.subtract(*measured(Percentile(60.0), x)))


def eagerly(quantizer):
    return lambda x: quantizer(x, training=True)


def in_tensorflow(quantizer):
    return in_a_graph(eagerly(quantizer))


def in_jax(quantizer):
    """Under `jit`, the call returns the layer's new state."""
    call = in_a_graph(
        lambda state, x: quantizer.stateless_call([], state, x, training=True)
    )

    def learn(x):
        variables = quantizer.non_trainable_variables
        _, state = call([v.value for v in variables], x)
        for variable, value in zip(variables, state, strict=True):
            variable.assign(value)

    return learn


LEARN = {"tensorflow": in_tensorflow, "jax": in_jax}


@pytest.mark.parametrize("observer", WAYS)
def test_a_quantiser_uses_the_observer(observer):
    quantizer = ActivationQuantizer(observer=observer)
    quantizer.build()
    quantizer.active.assign(True)
    learn = LEARN.get(BACKEND, eagerly)(quantizer)
    for batch in (VALUES, 3 * VALUES):
        learn(ops.convert_to_tensor(batch))
    first, last = measured(observer, VALUES), measured(observer, 3 * VALUES)
    expected = [
        observer.momentum * old + (1 - observer.momentum) * new
        for old, new in zip(first, last, strict=True)
    ]
    found = [float(bound) for bound in quantizer.bounds()]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("observer", WAYS)
def test_round_trip(observer):
    config = keras.saving.serialize_keras_object(observer)
    assert keras.saving.deserialize_keras_object(config) == observer


@pytest.mark.parametrize(
    ("make", "received"),
    [
        (lambda: MovingAverage(1.0), "momentum=1.0"),
        (lambda: Percentile(50.0), "percentile=50.0"),
        (lambda: Percentile(101.0), "percentile=101.0"),
        (lambda: Percentile(99.0, -0.1), "momentum=-0.1"),
        (lambda: Percentile(99.0, samples=0), "samples=0"),
    ],
)
def test_arguments_out_of_range_are_rejected(make, received):
    with pytest.raises(ValueError, match=f"Received: {received}"):
        make()
