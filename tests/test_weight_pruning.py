import csv
import itertools
import warnings

import keras
import numpy as np
import pytest
from tiny_keras import (
    Interrupt,
    Watch,
    assert_zeros_where_masked,
    can_go,
    compiled,
    counts,
    data,
    dense_model,
    fit,
    masks,
)

from keras_micronets import layers
from keras_micronets.callbacks import WeightPruning
from keras_micronets.callbacks.mask_updates import prune
from keras_micronets.layers import Scope
from keras_micronets.schedules import Constant, PolynomialDecay
from keras_micronets.sparsity import (
    Block,
    Channels,
    Movement,
    NofM,
    Unstructured,
    taylor,
    uniform,
)

# Epochs of ten batches, and two kernels: 8 x 16 and 16 x 3.
SIZES = {"layer": [128, 48], "model": [176]}


def assert_target_met(model, target, allocation="uniform"):
    removed = list(counts(model).values())
    removed = removed if allocation != "global" else [sum(removed)]
    for count, size in zip(
        removed, SIZES["model" if allocation == "global" else "layer"], strict=True
    ):
        assert abs(count - target * size) < 1
    assert_zeros_where_masked(model)


ALL = Scope(first=True, last=True, small=True)


@pytest.fixture(scope="module")
def tfmot():
    with warnings.catch_warnings():
        warnings.filterwarnings(  # tfmot uses a deprecated comparison of versions
            "ignore", "distutils Version classes are deprecated", DeprecationWarning
        )
        import tensorflow_model_optimization
    return tensorflow_model_optimization.sparsity.keras


@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_sparsity_reaches_the_target_and_never_decreases(allocation):
    model = compiled(dense_model())
    seen = []
    watch = Watch(
        on_batch=lambda model, step: seen.append(masks(model)),
        on_epoch=lambda model, epoch: assert_zeros_where_masked(model),
    )
    pruning = WeightPruning(PolynomialDecay(0.0, 0.8), allocation=allocation)
    history = fit(model, pruning, watch).history
    assert_target_met(model, 0.8, allocation)
    for before, after in itertools.pairwise(seen):
        assert not any((after[name] & ~before[name]).any() for name in after)
    assert history["sparsity"] == sorted(history["sparsity"])
    assert history["sparsity"][-1] == layers.sparsity(model)
    assert all(type(value) is float for value in history["sparsity"])

    present = masks(model)
    history = fit(model, pruning, watch, epochs=1).history
    assert history["sparsity"] == [layers.sparsity(model)]
    for name, mask in masks(model).items():
        np.testing.assert_array_equal(mask, present[name])
    assert_zeros_where_masked(model)


def test_sparsity_follows_the_schedule_at_every_step():
    schedule = PolynomialDecay(0.1, 0.9, end=1.0)
    model = compiled(dense_model())

    def check(model, step):
        for count, size in zip(counts(model).values(), SIZES["layer"], strict=True):
            wanted = schedule(step / 40) * size
            if size == 128:  # each of 16 outputs keeps a weight
                wanted = min(wanted, 112)
            assert abs(count - wanted) <= 0.5

    fit(model, WeightPruning(schedule), Watch(on_batch=check))
    assert counts(model) == {"hidden": 112, "head": 43}


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (0.8, PolynomialDecay(0.0, 0.8)),
        # Linear to 0.8 in 16 of 40 steps, whichever length the run has.
        (
            keras.optimizers.schedules.PolynomialDecay(0.0, 16, 0.8),
            PolynomialDecay(0.0, 0.8, end=0.4, power=1.0),
        ),
        (
            keras.optimizers.schedules.PiecewiseConstantDecay([19], [0.0, 0.6]),
            Constant(0.6, start=0.5),
        ),
    ],
)
def test_schedules_may_be_numbers_or_of_keras(schedule, expected):
    model, pruning = compiled(dense_model()), WeightPruning(schedule)

    def check(model, step):
        for count, size in zip(counts(model).values(), SIZES["layer"], strict=True):
            assert abs(count - expected(step / 40) * size) <= 0.51

    fit(model, pruning, Watch(on_batch=check))
    assert_target_met(model, expected(1.0))
    copy = WeightPruning.from_config(pruning.get_config())
    names = {"WeightPruning": WeightPruning, "keras": keras}
    assert repr(eval(repr(pruning), names)) == repr(copy) == repr(pruning)


def test_masks_change_every_frequency_batches_and_after_an_epoch():
    model = compiled(dense_model())
    seen = []
    watch = Watch(on_batch=lambda model, step: seen.append(layers.sparsity(model)))
    fit(model, WeightPruning(lambda p: 0.9 * p, frequency=4), watch, epochs=2)
    steps = [s for s in range(2, 21) if seen[s - 1] != seen[s - 2]]
    assert steps == [4, 8, 10, 12, 16, 20]


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(0.1, momentum=0.9),
        lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
        lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9),
        lambda: keras.optimizers.Adam(
            0.01, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=3
        ),
    ],
    ids=["momentum", "weight decay", "ema", "ema that overwrites"],
)
def test_masked_weights_stay_zero_with(optimizer):
    model = compiled(dense_model(), optimizer())
    watch = Watch(on_epoch=lambda model, epoch: assert_zeros_where_masked(model))
    fit(model, WeightPruning(PolynomialDecay(0.0, 0.75)), watch)
    assert_target_met(model, 0.75)


@pytest.mark.parametrize("n", [40, 36])
def test_several_steps_per_execution(n):
    """Ten and nine batches per epoch: neither is a multiple of four."""
    model = compiled(dense_model(), steps_per_execution=4)
    watch = Watch(on_epoch=lambda model, epoch: assert_zeros_where_masked(model))
    schedule = PolynomialDecay(0.0, 0.75, end=1.0)
    history = fit(model, WeightPruning(schedule), watch, epochs=2, n=n, batch_size=4)
    assert_target_met(model, 0.75)
    half = history.history["sparsity"][0]
    assert half == pytest.approx(schedule(0.5), abs=1 / 176)


def quiet(*callbacks):
    return {"callbacks": list(callbacks), "shuffle": False, "verbose": 0}


def generate(n_batches):
    x, y = data(4)
    for _ in range(n_batches):
        yield x, y


def as_dataset(n_batches):
    """A tf.data pipeline whose length Keras does not know."""
    import tensorflow as tf

    x, y = data(4)
    dataset = tf.data.Dataset.from_tensors((x, y)).repeat(n_batches)
    return dataset.filter(lambda *_: True)


@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
def test_data_of_unknown_length_updates_masks_every_epoch():
    model = compiled(dense_model())
    seen = []
    watch = Watch(on_batch=lambda model, step: seen.append(layers.sparsity(model)))
    pruning = WeightPruning(lambda progress: 0.8 * progress)
    model.fit(as_dataset(3), epochs=4, **quiet(pruning, watch))
    np.testing.assert_allclose(seen, np.repeat([0.2, 0.4, 0.6, 0.8], 3), atol=1 / 176)
    assert_target_met(model, 0.8)


def test_a_generator_with_steps_updates_masks_by_step():
    model = compiled(dense_model())
    seen = []
    watch = Watch(on_batch=lambda model, step: seen.append(layers.sparsity(model)))
    pruning = WeightPruning(lambda progress: 0.8 * progress)
    model.fit(generate(12), steps_per_epoch=6, epochs=2, **quiet(pruning, watch))
    np.testing.assert_allclose(seen, 0.8 * np.arange(1, 13) / 12, atol=1 / 176)


def test_progress_counts_the_initial_epoch():
    model = compiled(dense_model())
    pruning = WeightPruning(lambda progress: 0.8 * progress)
    history = fit(model, pruning, epochs=8, initial_epoch=6).history
    assert history["sparsity"] == pytest.approx([0.7, 0.8], abs=1 / 176)


def test_a_model_that_was_trained_before_preparation():
    model = compiled(dense_model())
    fit(model, epochs=1)
    model.predict(data()[0], verbose=0)
    iterations = int(model.optimizer.iterations.numpy())
    fit(model, WeightPruning(Constant(0.8)), epochs=2)
    assert_target_met(model, 0.8)
    assert int(model.optimizer.iterations.numpy()) == iterations + 20
    x, _ = data()
    plain = layers.strip(model)
    np.testing.assert_allclose(
        model.predict(x, verbose=0), plain.predict(x, verbose=0), atol=1e-6
    )


def test_nested_functional_and_shared_layers():
    keras.utils.set_random_seed(0)
    shared = keras.layers.Dense(8, name="shared")
    inner_in = keras.Input((8,))
    inner = keras.Model(inner_in, keras.layers.Dense(8, name="inner")(inner_in))
    inputs = keras.Input((8,))
    x = keras.layers.Add()([shared(inputs), shared(inner(inputs))])
    outputs = keras.layers.Dense(3, activation="softmax", name="head")(x)
    model = compiled(keras.Model(inputs, outputs))
    fit(model, WeightPruning(PolynomialDecay(0.0, 0.5), scope=ALL), epochs=2)
    assert counts(model) == {"shared": 32, "inner": 32, "head": 12}
    assert_zeros_where_masked(model)


def test_convolutions_are_pruned():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 1)),
            keras.layers.Reshape((4, 2, 1)),
            keras.layers.Conv2D(4, 3, padding="same", name="conv"),
            keras.layers.BatchNormalization(),
            keras.layers.DepthwiseConv2D(2, name="depthwise"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3, activation="softmax", name="head"),
        ]
    )
    pruning = WeightPruning(PolynomialDecay(0.0, 0.5), scope=ALL)
    fit(compiled(model), pruning, epochs=1)
    assert counts(model) == {"conv": 18, "depthwise": 8, "head": 6}
    assert_zeros_where_masked(model)


def test_loggers_listed_later_record_the_sparsity(tmp_path, monkeypatch):
    written = []
    board = keras.callbacks.TensorBoard(tmp_path / "board", write_graph=False)
    monkeypatch.setattr(  # TensorFlow's own needs the tensorboard package
        board.summary, "scalar", lambda name, value, step: written.append((name, value))
    )
    history = fit(
        compiled(dense_model()),
        WeightPruning(PolynomialDecay(0.0, 0.8)),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        board,
        epochs=3,
    ).history
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["sparsity"]) for row in rows] == history["sparsity"]
    shown = [value for name, value in written if name == "epoch_sparsity"]
    assert shown == history["sparsity"]


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
@pytest.mark.parametrize("listed", ["after", "before"])
def test_checkpoints_load_unchanged(tmp_path, suffix, listed):
    model = compiled(dense_model(), keras.optimizers.SGD(0.1, momentum=0.9))
    kept = {}

    def keep(model, epoch):
        kept[epoch + 1] = masks(model), model.get_weights()

    checkpoint = keras.callbacks.ModelCheckpoint(
        tmp_path / ("{epoch}" + suffix), save_weights_only=suffix == ".weights.h5"
    )
    pruning = WeightPruning(PolynomialDecay(0.0, 0.8))
    both = [pruning, checkpoint] if listed == "after" else [checkpoint, pruning]
    fit(model, *both, Watch(on_epoch=keep), epochs=3)
    for epoch, (expected, weights) in kept.items():
        path = tmp_path / f"{epoch}{suffix}"
        if suffix == ".keras":
            loaded = keras.saving.load_model(path)
        else:
            loaded = dense_model(seed=1)
            layers.prepare(loaded)
            loaded.load_weights(path)
        for name, mask in masks(loaded).items():
            np.testing.assert_array_equal(mask, expected[name])
        if listed == "after":
            assert_zeros_where_masked(loaded)
            for found, value in zip(loaded.get_weights(), weights, strict=True):
                np.testing.assert_array_equal(found, value)
    assert sum(counts(loaded).values()) == pytest.approx(0.8 * 176, abs=2)


def test_a_loaded_checkpoint_continues_training(tmp_path):
    model = compiled(dense_model())
    fit(model, WeightPruning(PolynomialDecay(0.0, 0.5)), epochs=2)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    before = masks(loaded)
    fit(loaded, WeightPruning(PolynomialDecay(0.0, 0.8)), epochs=2)
    assert_target_met(loaded, 0.8)
    for name, mask in masks(loaded).items():
        assert not (mask & ~before[name]).any()


@pytest.mark.parametrize("listed", ["first", "last"])
@pytest.mark.slow
def test_an_interrupted_run_resumes(tmp_path, listed):
    def callbacks(*others):
        backup = keras.callbacks.BackupAndRestore(
            tmp_path / "backup", delete_checkpoint=False
        )
        pruning = WeightPruning(PolynomialDecay(0.0, 0.8, end=1.0))
        both = [backup, pruning] if listed == "first" else [pruning, backup]
        return [*both, *others]

    whole = compiled(dense_model())
    expected = fit(
        whole, WeightPruning(PolynomialDecay(0.0, 0.8, end=1.0)), epochs=6
    ).history

    before = {}
    watch = Watch(on_epoch=lambda model, epoch: before.update(masks(model)))
    with pytest.raises(InterruptedError):
        fit(
            compiled(dense_model()),
            *callbacks(watch, Interrupt(3)),
            epochs=6,
        )
    resumed = compiled(dense_model(seed=5))
    start = []
    keep = Watch(on_batch=lambda model, step: start.append(masks(model)))
    history = fit(resumed, *callbacks(keep), epochs=6)
    assert history.epoch == [3, 4, 5]
    for name, mask in start[0].items():
        assert not (mask & ~before[name]).any()
    assert history.history["sparsity"] == expected["sparsity"][3:]
    assert counts(resumed) == counts(whole)
    assert_target_met(resumed, 0.8)


def test_tfmot_schedules_change_masks_at_due_steps_only(tfmot):
    schedule = tfmot.PolynomialDecay(
        0.1, 0.7, begin_step=3, end_step=24, power=1, frequency=7
    )
    seen = [0.0]
    watch = Watch(on_batch=lambda model, step: seen.append(layers.sparsity(model)))
    model = compiled(dense_model())
    fit(model, WeightPruning(schedule), watch)
    changed = [s for s in range(1, 41) if seen[s] != seen[s - 1]]
    assert changed == [3, 10, 17, 24]
    for step in changed:
        assert seen[step] == pytest.approx(float(schedule(step)[1]), abs=1 / 176)
    assert_target_met(model, 0.7)


def test_a_tfmot_constant_schedule_begins_and_ends_at_its_steps(tfmot):
    due = []

    class Pruning(WeightPruning):
        def is_due(self, step):
            if super().is_due(step):
                due.append(step)
            return False

    schedule = tfmot.ConstantSparsity(0.5, begin_step=5, end_step=30, frequency=10)
    fit(compiled(dense_model()), Pruning(schedule))
    assert due == [5, 15, 25]


def test_a_tfmot_schedule_with_several_steps_per_execution(tfmot):
    schedule = tfmot.ConstantSparsity(0.5, begin_step=5, end_step=5, frequency=1)
    seen = []
    watch = Watch(on_batch=lambda model, step: seen.append(layers.sparsity(model)))
    model = compiled(dense_model(), steps_per_execution=4)
    fit(model, WeightPruning(schedule), watch, epochs=1)
    assert seen == [0.0, 0.5, 0.5]


def test_warns_of_a_tfmot_schedule_that_ends_after_the_run(tfmot):
    schedule = tfmot.PolynomialDecay(0.0, 0.8, begin_step=0, end_step=50)
    with pytest.warns(UserWarning, match="ends at step 50, but the run has 40"):
        fit(compiled(dense_model()), WeightPruning(schedule))


def test_a_tfmot_schedule_needs_the_steps(tfmot):
    schedule = tfmot.ConstantSparsity(0.5, begin_step=0)
    with pytest.raises(ValueError, match="steps_per_epoch"):
        compiled(dense_model()).fit(as_dataset(3), **quiet(WeightPruning(schedule)))


@pytest.mark.parametrize(
    ("pruning", "error", "message"),
    [
        (WeightPruning("0.8"), TypeError, "Expected a schedule"),
        (WeightPruning(80), ValueError, "schedule=80.0"),
        (WeightPruning(lambda p: p), ValueError, "at 100 % of the run=1.0"),
        (
            WeightPruning(Constant(0.5), allocation="all"),
            ValueError,
            "allocation='all'",
        ),
        (
            WeightPruning(Constant(0.5), importance="size"),
            ValueError,
            "importance='size'",
        ),
        (WeightPruning(Constant(0.5), importance="taylor"), ValueError, "data=None"),
        (WeightPruning(Constant(0.5), pattern="2:4"), ValueError, "pattern='2:4'"),
        (WeightPruning(Constant(0.5), scope=Scope("hed")), ValueError, "'hed'"),
        (WeightPruning(Constant(0.5), frequency=0), ValueError, "frequency=0"),
        (WeightPruning(Constant(0.5), frequency=-3), ValueError, "frequency=-3"),
    ],
)
def test_a_bad_argument_is_named_and_changes_nothing(pruning, error, message):
    model = compiled(dense_model())
    before = model.get_weights()[:4]
    with pytest.raises(error, match=message):
        fit(model, pruning)
    after = [variable.numpy() for variable in model.trainable_variables]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)
    assert layers.sparsity(model) == 0.0


def test_rejects_a_model_with_nothing_to_prune():
    model = keras.Sequential([keras.Input((8,)), keras.layers.Softmax()])
    with pytest.raises(ValueError, match="Expected a model with layers to prune"):
        fit(compiled(model), WeightPruning(Constant(0.5)))


def test_rejects_a_model_that_is_not_built():
    model = compiled(keras.Sequential([keras.layers.Dense(3)]))
    with pytest.raises(ValueError, match="Expected a built model"):
        WeightPruning(Constant(0.5)).prepare(model)


def test_pruning_in_a_custom_loop():
    model = dense_model()
    layers.prepare(model)
    prune(model, 0.5)
    assert_target_met(model, 0.5)
    before = masks(model)
    prune(model, 0.3)  # never falls
    prune(model, 0.6, allocation="global")
    assert_target_met(model, 0.6, allocation="global")
    for name, mask in masks(model).items():
        assert not (mask & ~before[name]).any()


def test_the_smallest_weights_are_removed():
    model = dense_model()
    weights = model.layers[0].kernel.numpy()
    layers.prepare(model)
    prune(model, 0.25)
    mask = masks(model)["hidden"]
    assert np.abs(weights[~mask]).max() <= np.abs(weights[can_go(mask)]).min()
    np.testing.assert_array_equal(layers.kernels(model)[0].weights, weights * mask)


RAMP = PolynomialDecay(0.1, 0.75, end=1.0)
# Weights a unit of the two kernels.
UNITS = {
    Unstructured(): (1, 1),
    NofM(2, 4): (1, 1),
    Block(4): (4, 4),
    Channels(): (8, 16),
}


@pytest.mark.parametrize(
    ("pattern", "importance"),
    [
        (Unstructured(), "movement"),
        (NofM(2, 4), "magnitude"),
        (NofM(2, 4), "random"),
        (Block(4), "taylor"),
        (Channels(), "magnitude"),
    ],
    ids=str,
)
def test_every_update_follows_the_schedule(pattern, importance):
    model = compiled(dense_model())
    seen = []

    def check(model, step):
        found = masks(model)
        for before, after in itertools.pairwise([*seen[-1:], found]):
            assert not any((after[name] & ~before[name]).any() for name in after)
        seen.append(found)
        sizes = zip(counts(model).values(), SIZES["layer"], UNITS[pattern], strict=True)
        for count, size, unit in sizes:
            wanted = RAMP(step / 20) * size
            if (pattern, size) == (Block(4), 128):  # each output keeps one block of two
                wanted = min(wanted, 64)
            assert abs(count - wanted) <= (unit + 1) / 2

    pruning = WeightPruning(RAMP, pattern=pattern, importance=importance, data=data())
    fit(model, pruning, Watch(on_batch=check), epochs=2)
    assert len(seen) == 20
    assert_zeros_where_masked(model)


@pytest.mark.parametrize("allocation", ["global", "erk", uniform])
@pytest.mark.parametrize("pattern", [NofM(2, 4), Block(4), Channels()], ids=str)
def test_patterns_combine_with_allocations(pattern, allocation):
    model = compiled(dense_model())

    def check(model, step):
        missed = sum(counts(model).values()) - RAMP(step / 20) * 176
        if pattern == Block(
            4
        ):  # each output of the first kernel keeps one block of two
            missed = max(missed, 0) if counts(model)["hidden"] == 64 else missed
        assert abs(missed) <= sum(UNITS[pattern]) / 2 + 2

    pruning = WeightPruning(RAMP, pattern=pattern, allocation=allocation)
    fit(model, pruning, Watch(on_batch=check), epochs=2)
    if pattern == Block(4):
        for mask in masks(model).values():
            of_blocks = mask.reshape(-1, 4, mask.shape[-1])
            np.testing.assert_array_equal(of_blocks.any(axis=1), of_blocks.all(axis=1))


def test_two_of_four_holds_at_the_end():
    model = compiled(dense_model())
    schedule = PolynomialDecay(0.0, 0.5)
    history = fit(model, WeightPruning(schedule, pattern=NofM(2, 4)), epochs=2).history
    assert history["sparsity"][-1] == 0.5
    for mask in masks(model).values():
        groups = mask.reshape(-1, 4, mask.shape[-1])
        assert (np.count_nonzero(groups, axis=1) == 2).all()


def test_patterns_lie_along_the_inputs_of_every_layer():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 4)),
            keras.layers.Conv2DTranspose(8, 3),
            keras.layers.DepthwiseConv2D(2, depth_multiplier=2),
            keras.layers.SeparableConv2D(4, 3),
            keras.layers.Reshape((25, 4)),
            keras.layers.EinsumDense("abc,cde->abde", (None, 2, 3)),
        ]
    )
    layers.prepare(model)
    chosen = Scope(
        without=keras.layers.DepthwiseConv2D, first=True, last=True, small=True
    )
    prune(model, 0.5, pattern=NofM(2, 4), scope=chosen)
    for kernel in chosen(model):
        mask = kernel.layout.canonical(kernel.mask)
        if mask.shape[-2] > 1:
            groups = mask.reshape(-1, 4, mask.shape[-1])
            assert (np.count_nonzero(groups, axis=1) == 2).all()
        assert kernel.sparsity == 0.5
    prune(model, 0.75, pattern=Channels(), scope=ALL)
    for kernel in layers.kernels(model):
        mask = kernel.layout.canonical(kernel.mask)
        kept = mask.any(axis=tuple(range(mask.ndim - 1)))
        assert 0 < np.count_nonzero(kept) < mask.shape[-1]


def test_layers_are_treated_differently_in_one_fit():
    model = compiled(dense_model())
    gentle = WeightPruning(
        PolynomialDecay(0.0, 0.25), scope=Scope("head"), pattern=Block(4)
    )
    hard = WeightPruning(PolynomialDecay(0.0, 0.75), scope=Scope(last=False))
    history = fit(model, gentle, hard, epochs=2).history
    assert counts(model) == {"hidden": 96, "head": 12}
    assert history["sparsity"][-1] == layers.sparsity(model) == 108 / 176
    assert_zeros_where_masked(model)


def test_a_layer_outside_the_scope_stays_dense():
    model = compiled(dense_model())
    scope = Scope(first=False)
    fit(model, WeightPruning(Constant(0.5), scope=scope, allocation="global"), epochs=1)
    assert counts(model) == {"hidden": 0, "head": 24}


def test_taylor_removes_the_weights_that_change_the_loss_least():
    model = compiled(dense_model())
    layers.prepare(model)
    gradients = layers.kernel_gradients(model, *data())
    weights = [kernel.weights for kernel in layers.kernels(model)]
    prune(model, 0.5, importance="taylor", gradients=gradients)
    for before, slope, mask in zip(
        weights, gradients, masks(model).values(), strict=True
    ):
        scores = taylor(before, slope)
        assert scores[~mask].max() <= scores[can_go(mask)].min()


def test_gradients_are_matched_to_the_kernels_of_a_scope():
    model = compiled(dense_model())
    layers.prepare(model)
    high = np.indices((16, 3)).sum(0) % 2 == 1  # in each row and each column
    gradients = [np.zeros((8, 16)), np.arange(48.0).reshape(16, 3) + 48 * high]

    def slope(weights, gradients):
        return gradients

    slope.needs_gradients = True
    prune(model, 0.5, importance=slope, scope=Scope("head"), gradients=gradients)
    np.testing.assert_array_equal(masks(model)["head"], high)
    with pytest.raises(ValueError, match="Expected `gradients`"):
        prune(model, 0.6, importance=slope)


def test_movement_sums_over_calls():
    model = compiled(dense_model())
    layers.prepare(model)
    weights = [kernel.weights for kernel in layers.kernels(model)]
    rng = np.random.default_rng(0)
    first, second = ([rng.normal(size=w.shape) for w in weights] for _ in range(2))
    movement = Movement()
    prune(model, 0.0, importance=movement, gradients=first)
    prune(model, 0.5, importance=movement, gradients=second)
    for index, mask in enumerate(masks(model).values()):
        scores = -weights[index] * (first[index] + second[index])
        assert scores[~mask].max() <= scores[can_go(mask)].min()


def test_gradients_are_computed_at_updates_only(monkeypatch):
    taken = []
    original = layers.kernel_gradients

    def count(model, *batch):
        taken.append(len(batch[0]))
        return original(model, *batch)

    monkeypatch.setattr(layers, "kernel_gradients", count)
    x, y = data(60)
    batches = [(x[:20], y[:20]), (x[20:], y[20:])]
    pruning = WeightPruning(
        Constant(0.5), importance="taylor", data=batches, frequency=5
    )
    fit(compiled(dense_model()), pruning, epochs=2)
    assert taken == [20, 40, 20, 40, 20]


def test_custom_importance_and_allocation():
    model = compiled(dense_model())
    pruning = WeightPruning(
        Constant(0.5),
        importance=lambda weights, gradients: weights,
        allocation=lambda scores, sparsity: [64, 0],
    )
    layers.prepare(model)
    before = layers.kernels(model)[0].weights
    pruning.set_params({"epochs": 1, "steps": 10, "verbose": 0})
    pruning.set_model(model)
    pruning.on_train_begin()
    pruning.on_epoch_begin(0)
    assert counts(model) == {"hidden": 64, "head": 0}
    mask = masks(model)["hidden"]
    assert before[~mask].max() <= before[mask].min()


def test_random_masks_depend_on_the_seed():
    def draw(seed):
        model = compiled(dense_model())
        pruning = WeightPruning(Constant(0.5), importance="random", seed=seed)
        fit(model, pruning, epochs=1)
        return masks(model)["hidden"]

    np.testing.assert_array_equal(draw(1), draw(1))
    assert (draw(1) != draw(2)).any()


def test_rejects_an_impossible_sparsity():
    model = dense_model()
    layers.prepare(model)
    with pytest.raises(ValueError, match=r"sparsity=1\.0"):
        prune(model, 1.0)
