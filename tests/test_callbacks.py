"""All callbacks have the same arguments, and act in `fit` only."""

import inspect
import json

import keras
import numpy as np
import pytest
from tiny_keras import compiled, data, dense_model, fit

from keras_micronets import LearnerPool, callbacks
from keras_micronets.callbacks import (
    ChannelPruning,
    Cycle,
    DynamicSparseTraining,
    LearnerCheckpoint,
    LearnerCycles,
    QuantizationAwareTraining,
    WeightPruning,
    masks,
)
from keras_micronets.layers import kernels
from keras_micronets.schedules import Constant
from keras_micronets.sparsity import taylor, uniform

CALLBACKS = [
    value
    for value in vars(callbacks).values()
    if inspect.isclass(value) and issubclass(value, keras.callbacks.Callback)
]
ORDER = [
    "scope",
    "importance",
    "data",
    "allocation",
    "frequency",
    "start",
    "end",
    "run",
    "seed",
]
DEFAULTS = dict.fromkeys(("scope", "importance", "data", "allocation", "frequency"))
DEFAULTS |= {"start": 0.0, "end": 0.75, "seed": 0}
# The published fractions of channel pruning, and the seed of a run, if it is known.
OTHERS = {
    (ChannelPruning, "start"): 0.1,
    (ChannelPruning, "end"): 0.6,
    (LearnerCheckpoint, "seed"): None,
}


def arguments(cls):
    return inspect.signature(cls).parameters


def made(cls, folder):
    """Return a callback that trains in a moment, with a pool of its own."""
    pool = LearnerPool(folder / f"pool-{len(list(folder.iterdir()))}")
    cycle = Cycle(mask=masks.Magnitude(0.5), quantize=0.0)
    pruning = WeightPruning(Constant(0.5))
    return {
        WeightPruning: lambda: pruning,
        DynamicSparseTraining: lambda: cls(0.5, growth="random", frequency=5),
        ChannelPruning: lambda: cls(macs=0.7, round_to=1, min_channels=1),
        QuantizationAwareTraining: lambda: cls(),
        LearnerCheckpoint: lambda: cls(pool),
        LearnerCycles: lambda: cls(pool, 1, cycle, callbacks=[pruning]),
    }[cls]()


@pytest.mark.parametrize("cls", CALLBACKS)
def test_arguments_have_one_order(cls):
    shared = [name for name in arguments(cls) if name in ORDER]
    assert shared == sorted(shared, key=ORDER.index)


@pytest.mark.parametrize("cls", CALLBACKS)
def test_arguments_have_one_default(cls):
    for name, parameter in arguments(cls).items():
        if name in DEFAULTS:
            expected = OTHERS.get((cls, name), DEFAULTS[name])
            assert parameter.default == expected, name


@pytest.mark.parametrize("cls", CALLBACKS)
def test_shared_arguments_are_given_by_name(cls):
    kinds = {
        name: parameter.kind
        for name, parameter in arguments(cls).items()
        if name in ORDER and (cls, name) != (QuantizationAwareTraining, "start")
    }
    assert set(kinds.values()) <= {inspect.Parameter.KEYWORD_ONLY}


def about(model):
    """Return what a callback could change in a model, apart from values."""
    return [type(x) for x in (model, *model.layers)], [v.path for v in model.variables]


@pytest.mark.parametrize("cls", CALLBACKS)
def test_predict_and_evaluate_change_nothing(cls, tmp_path):
    (x, y), model = data(), compiled(dense_model())
    for _ in ("new", "trained"):
        before, weights = about(model), model.get_weights()
        model.predict(x, verbose=0, callbacks=[made(cls, tmp_path)])
        model.evaluate(x, y, verbose=0, callbacks=[made(cls, tmp_path)])
        assert about(model) == before
        for ours, theirs in zip(model.get_weights(), weights, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        fit(model, epochs=1)


@pytest.mark.parametrize("cls", CALLBACKS)
def test_trains_the_same_if_fit_cannot_be_told_from_predict(cls, tmp_path):
    """Only a new history tells that `fit` begins before it compiles its step."""

    def train(*others):
        model, callback = compiled(dense_model()), made(cls, tmp_path)
        model.predict(data()[0], verbose=0, callbacks=[callback])
        fit(model, epochs=1, shuffle=False)
        fit(model, callback, *others, epochs=2, shuffle=False)
        return model

    used = keras.callbacks.History()
    fit(compiled(dense_model()), used, epochs=1)
    model, expected = train(used), train()
    assert about(model)[0] == about(expected)[0]
    for ours, theirs in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@keras.saving.register_keras_serializable(package="tests")
def half(progress):
    return 0.5


def test_configurations_restore_functions_and_arrays():
    pruning = WeightPruning(half, importance=taylor, data=data(4), allocation=uniform)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(pruning)))
    copy = keras.saving.deserialize_keras_object(config)
    assert (copy.schedule, copy.importance, copy.allocation) == (half, taylor, uniform)
    for ours, theirs in zip(copy.data, pruning.data, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    names = {"WeightPruning": WeightPruning, "data": pruning.data}
    names |= {"half": half, "taylor": taylor, "uniform": uniform}
    assert eval(repr(pruning), names).get_config() == pruning.get_config()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": lambda progress: 0.5}, "Expected `schedule` to be registered"),
        ({"schedule": half, "data": iter([])}, "Expected `data` to be a value"),
        ({"schedule": half, "importance": print}, "Expected `importance` to be"),
    ],
)
def test_configurations_name_what_they_cannot_restore(options, message):
    with pytest.raises(ValueError, match=message):
        WeightPruning(**options).get_config()


@pytest.mark.parametrize(
    "make",
    [
        lambda pool: WeightPruning(Constant(0.5)),
        lambda pool: DynamicSparseTraining(0.5, growth="random", frequency=2),
        lambda pool: ChannelPruning(macs=0.9, round_to=1, min_channels=1),
        lambda pool: LearnerCycles(
            pool, 1, Cycle(mask=masks.Magnitude(0.5)), warmup=0.5
        ),
        lambda pool: LearnerCycles(
            pool, 1, Cycle(mask=masks.RandomHalves()), warmup=0.5
        ),
    ],
    ids=["weights", "dynamic", "channels", "magnitude", "halves"],
)
def test_layers_that_are_not_trained_are_left_alone_and_named(make, tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(16, activation="relu", name="frozen"),
            keras.layers.Dense(16, activation="relu", name="one"),
            keras.layers.Dense(16, activation="relu", name="two"),
            keras.layers.Dense(3, activation="softmax", name="head"),
        ]
    )
    model.get_layer("frozen").trainable = False
    before = model.get_layer("frozen").get_weights()[0]
    with pytest.warns(UserWarning, match="not trained.*: frozen"):
        fit(compiled(model), make(LearnerPool(tmp_path / "pool")), epochs=2)
    after = keras.ops.convert_to_numpy(model.get_layer("frozen").effective_kernel())
    np.testing.assert_array_equal(after, before)
    assert not all(kernel.mask.all() for kernel in kernels(model)[1:])
