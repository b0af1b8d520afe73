import keras
import pytest

from keras_micronets.learning_rates import (
    Cosine,
    OneCycle,
    PiecewiseConstant,
    as_learning_rate,
)

RATES = [
    Cosine(0.1, end=0.2),
    OneCycle(0.1, climb=0.25, start=0.5, end=0.0),
    PiecewiseConstant([0.01, 0.001]),
]


@pytest.mark.parametrize("rate", RATES, ids=repr)
def test_is_restored_from_its_configuration(rate):
    config = keras.saving.serialize_keras_object(rate)
    again = keras.saving.deserialize_keras_object(config)
    assert [again(i / 10) for i in range(11)] == [rate(i / 10) for i in range(11)]
    assert repr(again) == repr(rate)


def test_a_number_is_constant():
    assert {as_learning_rate(0.3, None)(i / 10) for i in range(11)} == {0.3}


def test_cosine_decreases_from_the_peak_to_its_end():
    rate = Cosine(0.4, end=0.25)
    values = [rate(i / 100) for i in range(101)]
    assert values[0] == pytest.approx(0.4)
    assert values[50] == pytest.approx(0.25)
    assert values[-1] == pytest.approx(0.1)
    assert values == sorted(values, reverse=True)


def test_one_cycle_increases_then_decreases():
    rate = OneCycle(1.0, climb=0.1, start=0.01, end=0.001)
    values = [rate(i / 100) for i in range(101)]
    assert values[0] == pytest.approx(0.01)
    assert values[10] == pytest.approx(1.0)
    assert values[-1] == pytest.approx(0.001)
    assert values[:11] == sorted(values[:11])
    assert values[10:] == sorted(values[10:], reverse=True)


def test_piecewise_constants_share_the_cycle():
    rate = PiecewiseConstant([3.0, 2.0, 1.0])
    assert [rate(p) for p in (0.0, 0.32, 0.34, 0.67, 1.0)] == [3.0, 3.0, 2.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: as_learning_rate(0.0, None),
        lambda: Cosine(-1.0),
        lambda: Cosine(1.0, end=1.5),
        lambda: OneCycle(1.0, climb=0.0),
        lambda: OneCycle(1.0, climb=1.0),
        lambda: OneCycle(1.0, start=2.0),
        lambda: PiecewiseConstant([]),
        lambda: PiecewiseConstant([0.1, 0.0]),
    ],
)
def test_rejects_values_that_are_not_rates(make):
    with pytest.raises(ValueError, match="Received"):
        make()
