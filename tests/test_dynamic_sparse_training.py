import itertools
from math import cos, pi

import keras
import numpy as np
import pytest
from backends import BACKEND, gradients
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
from keras_micronets.callbacks import (
    DynamicSparseTraining,
    WeightPruning,
    drop_and_regrow,
    sparsify_at_random,
)
from keras_micronets.layers import Scope, kernels, prepare
from keras_micronets.schedules import Constant
from keras_micronets.sparsity import ALLOCATIONS

# Two kernels: 8 x 16 and 16 x 3; forty steps.
SIZES = [128, 48]
several_steps = pytest.mark.skipif(
    BACKEND == "torch", reason="Keras has no steps_per_execution on PyTorch"
)


def rigl(sparsity=0.5, **kwargs):
    kwargs = {"data": data(), "frequency": 4} | kwargs
    return DynamicSparseTraining(sparsity, **kwargs)


def set_(sparsity=0.5, **kwargs):
    return DynamicSparseTraining(sparsity, growth="random", frequency=4, **kwargs)


def moved(before, after):
    """Return the masks of the dropped and the grown weights of each kernel."""
    return {
        name: (before[name] & ~after[name], ~before[name] & after[name])
        for name in before
    }


def dense_gradients(model):
    """Return the gradient on all the data, computed with a stripped copy."""
    plain = layers.strip(model)
    x, y = data()
    loss = keras.losses.SparseCategoricalCrossentropy()
    variables = [plain.get_layer(name).kernel for name in ("hidden", "head")]
    x = keras.ops.convert_to_tensor(x)
    return gradients(lambda: loss(y, plain(x, training=True)), variables)


def test_rigl_grows_exactly_where_the_dense_gradient_is_largest():
    model = compiled(dense_model(), keras.optimizers.Adam(0.01))
    training = rigl(allocation="uniform")
    before, grown = {}, []

    def look(model, step):
        weights = {kernel.path: kernel.weights for kernel in kernels(model)}
        before[step] = masks(model), weights, dense_gradients(model)

    def check(model, step):
        old, weights, dense = before[step]
        for (name, (drops, grows)), gradient in zip(
            moved(old, masks(model)).items(), dense, strict=True
        ):
            stays, off = old[name] & ~drops, ~old[name]
            fraction = 0.15 * (1 + cos(pi * step / 40 / 0.75))
            expected = round(fraction * old[name].sum()) * (step < 30 and step % 4 == 0)
            assert drops.sum() == grows.sum() == expected
            if expected:
                dropped = np.abs(weights[name])[drops]
                free = stays & can_go(old[name] & ~drops | grows)
                assert dropped.max() <= np.abs(weights[name])[free].min()
                largest = np.sort(np.abs(gradient)[off])[-expected:]
                lowest = np.abs(gradient)[grows].min()
                assert lowest >= largest[0] * (1 - 1e-4)
                grown.append(step)
        for kernel in kernels(model):
            grows = moved(old, masks(model))[kernel.path][1]
            assert (kernel.weights[grows] == 0).all()

    fit(model, Watch(on_batch=look), training, Watch(on_batch=check))
    assert sorted(set(grown)) == [4, 8, 12, 16, 20, 24]


@pytest.mark.parametrize("make", [rigl, set_])
@pytest.mark.parametrize("allocation", list(ALLOCATIONS))
@pytest.mark.slow
def test_every_step_has_the_requested_sparsity(make, allocation):
    model = compiled(dense_model())
    seen = []

    def check(model, step):
        seen.append(masks(model))
        assert_zeros_in_use(model)

    history = fit(model, make(0.7, allocation=allocation), Watch(on_batch=check))
    shapes = [np.zeros((8, 16)), np.zeros((16, 3))]
    total = 0.7 * sum(SIZES)
    for each in seen:
        found = [int((~mask).sum()) for mask in each.values()]
        assert abs(sum(found) - total) <= 2
        if allocation != "global":
            for count, wanted in zip(
                found, ALLOCATIONS[allocation](shapes, 0.7), strict=True
            ):
                assert abs(count - wanted) <= 1
    changes = [
        step
        for step, (one, two) in enumerate(itertools.pairwise(seen), 2)
        if any((one[name] != two[name]).any() for name in one)
    ]
    assert changes == [4, 8, 12, 16, 20, 24]  # at 28 less than half a weight moves
    assert history.history["sparsity"] == [layers.sparsity(model)] * 4
    assert_zeros_where_masked(model)


def assert_zeros_in_use(model):
    """Momentum may move masked weights between updates; no layer reads them."""
    for kernel in kernels(model):
        effective = keras.ops.convert_to_numpy(
            kernel.layer.effective_kernel(kernel.name)
        )
        assert (effective[~kernel.mask] == 0).all()


def test_it_learns_and_random_growth_visits_more_weights_than_it_keeps():
    model = compiled(dense_model(), keras.optimizers.Adam(0.01))
    ever = {}

    def keep(model, step):
        for name, mask in masks(model).items():
            ever[name] = ever.get(name, mask) | mask

    history = fit(
        model, set_(0.8, drop_fraction=0.5), Watch(on_batch=keep), epochs=10
    ).history
    assert sum(mask.sum() for mask in ever.values()) > 1.5 * 0.2 * 176
    assert history["loss"][-1] < history["loss"][0]


@pytest.mark.parametrize("make", [rigl, set_])
def test_a_model_that_is_already_sparse_keeps_its_masks(make):
    model = compiled(dense_model())
    fit(model, WeightPruning(Constant(0.5)), epochs=1)
    before = masks(model)
    seen = []
    watch = Watch(on_batch=lambda model, step: seen.append(masks(model)))
    fit(model, make(), watch, epochs=1)
    for name, mask in seen[2].items():
        np.testing.assert_array_equal(mask, before[name])
    assert any((seen[3][name] != before[name]).any() for name in before)


@pytest.mark.parametrize("make", [rigl, set_])
@pytest.mark.slow
def test_an_interrupted_run_samples_the_same_masks(tmp_path, make):
    x, y = data()
    kwargs = {"data": [(x[i::5], y[i::5]) for i in range(5)]} if make is rigl else {}

    def run(*callbacks, seed=0):
        training = make(0.6, **kwargs)
        model = compiled(dense_model(seed), keras.optimizers.Adam(0.01))
        seen = {}
        watch = Watch(on_epoch=lambda model, epoch: seen.update({epoch: masks(model)}))
        try:
            fit(model, *callbacks, training, watch, epochs=6, shuffle=False)
        except InterruptedError:
            seen[None] = True
        return seen

    def backup():
        return keras.callbacks.BackupAndRestore(
            tmp_path / "backup", delete_checkpoint=False
        )

    whole = run()
    assert None in run(backup(), Interrupt(3))
    resumed = run(backup(), seed=5)
    assert list(resumed) == [3, 4, 5]
    for epoch, found in resumed.items():
        for name, mask in found.items():
            np.testing.assert_array_equal(mask, whole[epoch][name])


def test_gradients_are_computed_at_updates_only(monkeypatch):
    taken = []
    original = layers.kernel_gradients

    def count(model, x, y, sample_weight=None):
        taken.append(len(x))
        return original(model, x, y, sample_weight)

    monkeypatch.setattr(layers, "kernel_gradients", count)
    fit(compiled(dense_model()), rigl())
    assert taken == [40] * 7
    taken.clear()
    fit(compiled(dense_model()), set_())
    assert taken == []


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(0.1, momentum=0.9),
        lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
        lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9),
        lambda: keras.optimizers.Adafactor(0.01),
    ],
    ids=["momentum", "weight decay", "ema", "factored"],
)
def test_masked_and_new_weights_are_zero_with(optimizer):
    model = compiled(dense_model(), optimizer())
    before = {}

    def check(model, step):
        for kernel in kernels(model):
            grown = kernel.mask & ~before.get(kernel.path, kernel.mask)
            assert (kernel.weights[grown] == 0).all()

    fit(
        model,
        Watch(on_batch=lambda model, step: before.update(masks(model))),
        rigl(),
        Watch(on_batch=check, on_epoch=lambda m, epoch: assert_zeros_where_masked(m)),
    )
    assert_zeros_where_masked(model)
    assert abs(sum(counts(model).values()) - 88) <= 2


@several_steps
def test_several_steps_per_execution():
    model = compiled(dense_model(), steps_per_execution=5)
    seen = []
    watch = Watch(on_batch=lambda model, step: seen.append(masks(model)))
    fit(model, rigl(), watch, epochs=2)
    assert len(seen) == 4
    assert any((seen[0][name] != seen[1][name]).any() for name in seen[0])
    assert abs(sum(counts(model).values()) - 88) <= 2


@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
@pytest.mark.parametrize("make", [rigl, set_])
def test_data_of_unknown_length_moves_connections_every_epoch(make):
    tf = pytest.importorskip("tensorflow")
    dataset = tf.data.Dataset.from_tensors(data(4)).repeat(3).filter(lambda *_: True)
    model = compiled(dense_model())
    seen = []
    watch = Watch(on_batch=lambda model, step: seen.append(masks(model)))
    model.fit(
        dataset, epochs=4, verbose=0, callbacks=[make(end=1.0), watch], shuffle=False
    )
    changes = [
        step
        for step, (one, two) in enumerate(itertools.pairwise(seen), 2)
        if any((one[name] != two[name]).any() for name in one)
    ]
    assert changes == [4, 7]
    assert abs(sum(counts(model).values()) - 88) <= 2


def test_only_the_scope_is_sparse():
    model = compiled(dense_model())
    fit(model, rigl(scope=Scope(last=False)), epochs=1)
    assert counts(model) == {"hidden": 64, "head": 0}


def test_nested_shared_and_separable_layers():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,))
    x = keras.layers.Reshape((4, 2, 1))(inputs)
    x = keras.layers.SeparableConv2D(6, 2, padding="same", name="separable")(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Flatten()(x)
    shared = keras.layers.Dense(8, activation="relu", name="shared")
    x = shared(shared(keras.layers.Dense(8, name="inner")(x)))
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))
    everything = Scope(first=True, last=True, small=True)
    training = rigl(0.5, allocation="uniform", scope=everything)
    fit(compiled(model), training, epochs=2)
    for kernel in kernels(model):
        # Each of the six outputs of the pointwise kernel has a single weight.
        removed = 0 if kernel.size == 6 else kernel.size / 2
        assert abs((~kernel.mask).sum() - removed) <= 0.5
    assert_zeros_where_masked(model)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"sparsity": 1.0}, "sparsity=1.0"),
        ({"growth": "rigl"}, "growth='rigl'"),
        ({"data": None}, "data=None"),
        ({"allocation": "all"}, "allocation='all'"),
        ({"drop_fraction": 0.0}, "drop_fraction=0.0"),
        ({"frequency": 0}, "frequency=0"),
        ({"end": 1.5}, "end=1.5"),
    ],
)
def test_a_bad_argument_is_named_and_changes_nothing(kwargs, message):
    model = compiled(dense_model())
    with pytest.raises(ValueError, match=message):
        fit(model, rigl(**{"sparsity": 0.5} | kwargs))
    assert type(model.layers[0]) is keras.layers.Dense


def sparse_model(sparsity=0.5, allocation="uniform"):
    model = compiled(dense_model(), keras.optimizers.SGD(0.1, momentum=0.9))
    prepare(model)
    sparsify_at_random(model, sparsity, allocation=allocation)
    return model


def test_random_masks_depend_on_the_seed_only():
    def draw(seed):
        model = dense_model()
        prepare(model)
        sparsify_at_random(model, 0.5, allocation="uniform", seed=seed)
        assert_zeros_where_masked(model)
        assert counts(model) == {"hidden": 64, "head": 24}
        return np.concatenate([mask.ravel() for mask in masks(model).values()])

    np.testing.assert_array_equal(draw(3), draw(3))
    assert (draw(3) != draw((3, 1))).any()


def test_random_masks_remove_removed_weights_first():
    model = sparse_model(0.5)
    before = masks(model)
    sparsify_at_random(model, 0.75, allocation="uniform", seed=9)
    assert counts(model) == {"hidden": 96, "head": 36}
    assert not any((masks(model)[name] & ~before[name]).any() for name in before)
    between = masks(model)
    sparsify_at_random(model, 0.25, allocation="uniform", seed=9)
    assert counts(model) == {"hidden": 32, "head": 12}
    for kernel in kernels(model):
        assert kernel.mask[between[kernel.path]].all()
        assert (kernel.weights[~between[kernel.path]] == 0).all()


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.8, 1.0])
@pytest.mark.parametrize("by_gradient", [False, True])
def test_drop_and_regrow_keeps_the_count(fraction, by_gradient):
    model = sparse_model(0.6)
    before, n_removed = masks(model), counts(model)
    dense = layers.kernel_gradients(model, *data()) if by_gradient else None
    drop_and_regrow(model, fraction, gradients=dense, seed=1)
    assert counts(model) == n_removed
    for name, (drops, grows) in moved(before, masks(model)).items():
        wanted = round(fraction * before[name].sum())
        after = masks(model)[name]
        assert after.any(0).all()
        assert after.any(1).all()
        # Those that alone keep an output or an input connected do not move.
        assert drops.sum() == grows.sum() >= wanted - (~can_go(after)).sum()
        assert drops.sum() <= wanted
    assert_zeros_where_masked(model)


def test_drop_and_regrow_in_a_scope_uses_the_gradient_of_its_kernel():
    model = sparse_model()
    dense = layers.kernel_gradients(model, *data())
    before = masks(model)
    drop_and_regrow(model, 0.2, gradients=dense, scope=Scope("head"))
    changes = moved(before, masks(model))
    assert not changes["hidden"][1].any()
    grown, off = changes["head"][1], ~before["head"]
    n_grown = int(grown.sum())
    assert n_grown == round(0.2 * 24)
    largest = np.sort(np.abs(dense[1])[off])[-n_grown:]
    np.testing.assert_array_equal(np.sort(np.abs(dense[1])[grown]), largest)


def test_masked_weights_that_momentum_moved_grow_from_zero():
    model = sparse_model()
    for kernel in kernels(model):
        kernel.variable.assign_add(np.ones(kernel.mask.shape))
    before = masks(model)
    drop_and_regrow(model, 0.5)
    for kernel in kernels(model):
        grown = kernel.mask & ~before[kernel.path]
        assert grown.any()
        assert (kernel.weights[grown] == 0).all()


def twice_the_same():
    """Two nested models of one kind: their variables have the same paths."""

    def part():
        inputs = keras.Input((8,))
        return keras.Model(inputs, keras.layers.Dense(8, name="same")(inputs))

    inputs = keras.Input((8,))
    x = keras.layers.Dense(8, name="same_kernel")(part()(part()(inputs)))
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))


def test_the_slots_of_new_weights_are_reset_and_no_others():
    model = compiled(twice_the_same(), keras.optimizers.SGD(0.1, momentum=0.9))
    prepare(model)
    start = [kernel.weights for kernel in kernels(model)]
    x, y = data()
    model.train_on_batch(x, y)
    moves = [
        k.weights - before for k, before in zip(kernels(model), start, strict=True)
    ]
    everything = Scope(first=True, last=True, small=True)
    sparsify_at_random(model, 0.5, scope=everything, allocation="uniform")
    before = masks(model)
    olds = [kernel.mask for kernel in kernels(model)]
    drop_and_regrow(model, 0.5, scope=everything)
    slots = [
        keras.ops.convert_to_numpy(slot)
        for slot in model.optimizer.variables
        if slot.path.endswith("momentum") and len(slot.shape) == 2
    ]
    assert len(slots) == 4
    assert before
    for kernel, old, move in zip(kernels(model), olds, moves, strict=True):
        grown = kernel.mask & ~old
        expected = np.where(grown, 0, move)
        assert grown.any()
        errors = [
            np.abs(slot - expected).max() for slot in slots if slot.shape == grown.shape
        ]
        assert min(errors) < 1e-6


def test_custom_loops_need_no_optimizer():
    model = dense_model()
    prepare(model)
    sparsify_at_random(model, 0.5)
    drop_and_regrow(model, 0.3)
    assert abs(sum(counts(model).values()) - 88) <= 2


def test_rejects_bad_calls():
    model = sparse_model()
    with pytest.raises(ValueError, match=r"fraction=1\.5"):
        drop_and_regrow(model, 1.5)
    with pytest.raises(ValueError, match="to be 2 arrays"):
        drop_and_regrow(model, 0.5, gradients=[np.zeros((8, 16))])
    with pytest.raises(ValueError, match=r"sparsity=-0\.1"):
        sparsify_at_random(model, -0.1)
