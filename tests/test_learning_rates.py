import keras
import pytest

from keras_micronets import learning_rates
from keras_micronets.learning_rates import (
    Cosine,
    LearningRate,
    OneCycle,
    PiecewiseConstant,
    as_learning_rate,
)

RATES = [
    Cosine(0.1, end=0.2),
    OneCycle(0.1, climb=0.25, start=0.5, end=0.0),
    PiecewiseConstant([0.01, 0.001]),
    Cosine(end=0.2),
    PiecewiseConstant([0.1, 0.01], relative=True),
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


@pytest.mark.parametrize(
    ("relative", "absolute"),
    [
        (Cosine(end=0.2), Cosine(0.03, end=0.2)),
        (OneCycle(climb=0.25), OneCycle(0.03, climb=0.25)),
        (
            PiecewiseConstant([0.1, 0.5], relative=True),
            PiecewiseConstant([0.003, 0.015]),
        ),
    ],
)
def test_without_a_peak_rates_are_shares_of_the_compiled_one(relative, absolute):
    rate = as_learning_rate(relative, None, 0.03)
    expected = [absolute(i / 10) for i in range(11)]
    assert [rate(i / 10) for i in range(11)] == pytest.approx(expected)
    assert as_learning_rate(absolute, None, 7.0)(0.5) == absolute(0.5)


def test_a_class_of_a_user_returns_rates_not_shares():
    class Half(LearningRate):
        def __call__(self, progress):
            return 0.5

    assert as_learning_rate(Half(), None, 0.03)(0.0) == 0.5


@pytest.mark.parametrize("wrong", [-0.1, float("nan"), float("inf")])
def test_rejects_a_function_that_returns_no_rate(wrong):
    with pytest.raises(ValueError, match="at 50 % of the progress"):
        as_learning_rate(lambda p: wrong if p == 0.5 else 0.1, None)
    assert as_learning_rate(lambda p: 0.1 * (1 - p), None)(1.0) == 0.0


def test_published_rates_are_constants():
    assert learning_rates.SNAPSHOT_SGD == 0.2
    assert learning_rates.FREE_TICKETS_SGD == learning_rates.PRUNE_AND_TUNE_SGD == 0.1
    assert learning_rates.PRUNE2EDGE_ADAM == 1e-5
