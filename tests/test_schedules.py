import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_micronets.schedules import (
    Constant,
    PolynomialDecay,
    TfmotSchedule,
    as_schedule,
    check_sparsity,
)

sparsities = st.floats(0.0, 1.0, exclude_max=True)
moments = st.floats(0.0, 1.0)


@st.composite
def ramps(draw):
    start, end = sorted(draw(st.lists(moments, min_size=2, max_size=2, unique=True)))
    return PolynomialDecay(
        draw(sparsities),
        draw(sparsities),
        start=start,
        end=end,
        power=draw(st.floats(0.1, 10.0)),
    )


@pytest.fixture(scope="module")
def tfmot():
    with warnings.catch_warnings():
        warnings.filterwarnings(  # tfmot uses a deprecated comparison of versions
            "ignore", "distutils Version classes are deprecated", DeprecationWarning
        )
        import tensorflow_model_optimization
    return tensorflow_model_optimization.sparsity.keras


def test_constant_applies_from_its_start():
    schedule = Constant(0.5, start=0.25)
    assert [schedule(p) for p in (0.0, 0.24, 0.25, 1.0)] == [0.0, 0.0, 0.5, 0.5]


def test_polynomial_decay_is_steep_first():
    schedule = PolynomialDecay(0.0, 0.8)
    assert schedule(0.0) == 0.0
    assert schedule(0.25) == pytest.approx(0.8 * (1 - 0.5**3))
    assert schedule(0.5) == schedule(1.0) == 0.8


def test_polynomial_decay_is_a_straight_line_at_power_one():
    schedule = PolynomialDecay(0.2, 0.6, start=0.5, end=1.0, power=1.0)
    values = [schedule(p) for p in (0.0, 0.5, 0.75, 1.0)]
    assert values == pytest.approx([0.2, 0.2, 0.4, 0.6])


@settings(deadline=None)
@given(ramps(), moments)
def test_a_ramp_stays_between_its_ends(schedule, progress):
    low, high = sorted((schedule.initial_sparsity, schedule.final_sparsity))
    assert low - 1e-12 <= schedule(progress) <= high + 1e-12
    assert check_sparsity(schedule(progress), "sparsity") < 1


@settings(deadline=None)
@given(ramps(), moments, moments)
def test_an_increasing_ramp_never_decreases(schedule, earlier, later):
    schedule.initial_sparsity, schedule.final_sparsity = sorted(
        (schedule.initial_sparsity, schedule.final_sparsity)
    )
    earlier, later = sorted((earlier, later))
    assert schedule(earlier) <= schedule(later) + 1e-12


@settings(deadline=None)
@given(st.one_of(ramps(), st.builds(Constant, sparsities, start=moments)))
def test_a_configuration_restores_an_equal_schedule(schedule):
    again = type(schedule).from_config(schedule.get_config())
    assert again.get_config() == schedule.get_config()
    grid = [i / 20 for i in range(21)]
    assert [again(p) for p in grid] == [schedule(p) for p in grid]
    assert eval(repr(schedule)).get_config() == schedule.get_config()


def test_keras_saves_schedules():
    schedule = PolynomialDecay(0.1, 0.8, power=2.0)
    stored = keras.saving.serialize_keras_object(schedule)
    again = keras.saving.deserialize_keras_object(stored)
    assert type(again) is PolynomialDecay
    assert again.get_config() == schedule.get_config()


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Constant(1.0), "sparsity=1.0"),
        (lambda: Constant(-0.1), "sparsity=-0.1"),
        (lambda: Constant(float("nan")), "sparsity=nan"),
        (lambda: Constant(0.5, start=1.5), "start=1.5"),
        (lambda: PolynomialDecay(80, 0.9), "initial_sparsity=80"),
        (lambda: PolynomialDecay(0.0, 1.0), "final_sparsity=1.0"),
        (lambda: PolynomialDecay(0.0, 0.8, start=-1), "start=-1"),
        (lambda: PolynomialDecay(0.0, 0.8, end=2), "end=2"),
        (lambda: PolynomialDecay(0.0, 0.8, start=0.5, end=0.5), "end=0.5"),
        (lambda: PolynomialDecay(0.0, 0.8, power=0), "power=0"),
    ],
)
def test_a_bad_argument_is_named(make, named):
    with pytest.raises(ValueError, match=r"Expected .* Received: .*" + named):
        make()


@pytest.mark.parametrize("schedule", ["0.8", True, None, [0.0, 0.8]])
def test_rejects_values_that_are_not_schedules(schedule):
    with pytest.raises(TypeError, match="Expected a schedule"):
        as_schedule(schedule, 100)


@pytest.mark.parametrize("sparsity", [0.8, np.float32(0.5), 0])
def test_a_number_is_the_sparsity_that_is_reached(sparsity):
    schedule = as_schedule(sparsity, None)
    expected = PolynomialDecay(0.0, float(sparsity))
    assert schedule.get_config() == expected.get_config()
    assert schedule(0.75) == schedule(1.0) == float(sparsity)


@pytest.mark.parametrize("sparsity", [1.0, 80, -0.1])
def test_a_number_out_of_range_is_named(sparsity):
    with pytest.raises(ValueError, match=f"schedule={float(sparsity)}"):
        as_schedule(sparsity, None)


def test_keras_schedules_are_called_with_steps():
    # Linear from 0 at step 0 to 0.8 at step 16.
    given = keras.optimizers.schedules.PolynomialDecay(0.0, 16, 0.8)
    schedule = as_schedule(given, 32)
    values = [schedule(step / 32) for step in (0, 4, 8, 16, 32)]
    assert values == pytest.approx([0.0, 0.2, 0.4, 0.8, 0.8])
    steps = keras.optimizers.schedules.PiecewiseConstantDecay([10, 20], [0.0, 0.5, 0.6])
    schedule = as_schedule(steps, 30)
    values = [schedule(step / 30) for step in (0, 10, 11, 20, 21, 30)]
    assert values == pytest.approx([0.0, 0.0, 0.5, 0.5, 0.6, 0.6])


def test_keras_schedules_of_users_are_called_with_steps():
    class Steps(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            assert isinstance(step, int)
            return keras.ops.convert_to_tensor(step / 200)

        def get_config(self):
            return {}

    assert as_schedule(Steps(), 100)(0.5) == pytest.approx(0.25)


def test_keras_schedules_need_the_steps_of_the_run():
    schedule = keras.optimizers.schedules.PolynomialDecay(0.0, 16, 0.8)
    with pytest.raises(ValueError, match="steps_per_epoch"):
        as_schedule(schedule, None)
    with pytest.warns(UserWarning, match="ends at step 16, but the run has 15 steps"):
        as_schedule(schedule, 15)


def test_keras_schedules_that_leave_the_range_are_named():
    schedule = keras.optimizers.schedules.PolynomialDecay(0.0, 100, 1.0)
    with pytest.raises(ValueError, match="at 100 % of the run"):
        as_schedule(schedule, 100)


@pytest.mark.parametrize("wrong", [1.0, -0.01, float("nan")])
def test_rejects_a_schedule_that_leaves_the_range(wrong):
    with pytest.raises(ValueError, match=r"at 50 % of the run"):
        as_schedule(lambda progress: wrong if progress == 0.5 else 0.3, 100)


def test_any_callable_is_a_schedule():
    def line(progress):
        return progress / 2

    assert as_schedule(line, None) is line


@pytest.mark.parametrize("total", [40, 100, 333])
def test_tfmot_schedules_return_the_values_of_tfmot_at_each_step(tfmot, total):
    given = [
        tfmot.ConstantSparsity(0.5, begin_step=5, end_step=30, frequency=4),
        tfmot.PolynomialDecay(0.1, 0.7, begin_step=3, end_step=40, frequency=5),
    ]
    for schedule in given:
        adapted = as_schedule(schedule, total)
        for step in range(total + 1):
            due, sparsity = schedule(step)
            assert adapted(step / total) == float(sparsity)
            assert adapted.is_due(step / total) == bool(due)


def test_warns_of_a_tfmot_schedule_that_ends_after_the_run(tfmot):
    schedule = tfmot.PolynomialDecay(0.0, 0.8, begin_step=0, end_step=101)
    with pytest.warns(UserWarning, match=r"ends at step 101, but the run has 100"):
        as_schedule(schedule, 100)
    as_schedule(tfmot.PolynomialDecay(0.0, 0.8, begin_step=0, end_step=100), 100)
    as_schedule(tfmot.ConstantSparsity(0.5, begin_step=0), 100)  # has no end


def test_a_tfmot_schedule_needs_the_steps_of_the_run(tfmot):
    with pytest.raises(ValueError, match="steps_per_epoch"):
        as_schedule(tfmot.ConstantSparsity(0.5, begin_step=0), None)


def test_custom_tfmot_schedules_are_adapted(tfmot):
    class Half(tfmot.PruningSchedule):
        def __call__(self, step):
            return step == 10, 0.5

        def get_config(self):
            return {}

    adapted = as_schedule(Half(), 20)
    assert isinstance(adapted, TfmotSchedule)
    assert [adapted.is_due(p) for p in (0.0, 0.5, 1.0)] == [False, True, False]
    assert adapted(0.5) == 0.5
    assert repr(adapted) == "tfmot {}"


def test_training_does_not_import_tfmot():
    script = """
import sys
import keras
import numpy as np
import keras_micronets as kmn

model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
model.compile("sgd", "mse")
pruning = kmn.callbacks.WeightPruning(kmn.schedules.PolynomialDecay(0.0, 0.5))
model.fit(np.ones((8, 4)), np.ones((8, 2)), verbose=0, callbacks=[pruning])
found = [name for name in sys.modules if name.startswith("tensorflow_model")]
sys.exit(f"imported {found}" if found else 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
