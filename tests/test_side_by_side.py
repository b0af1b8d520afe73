import keras
import numpy as np
import pytest
from exact_cases import assert_equals_its_file

from keras_micronets import (
    EnsemblePruner,
    LearnerPool,
    callbacks,
    distill,
    export_tflite,
    layers,
    losses,
    schedules,
    side_by_side,
)
from keras_micronets.callbacks import masks
from keras_micronets.edge.combine import combine

CLASSES = 3


def build():
    """Return a small net with batch statistics, a regulariser and logits."""
    inputs = keras.Input((6, 6, 1))
    x = keras.layers.Conv2D(4, 3, kernel_regularizer="l2", name="conv")(inputs)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="head")(x))


def compile_model(model, optimizer=None, **kwargs):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer or keras.optimizers.SGD(0.1, momentum=0.9), loss, **kwargs)
    return model


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 6, 6, 1)).astype("float32")
    return x, rng.integers(CLASSES, size=40)


FIXED = {"batch_size": 16, "shuffle": False, "verbose": 0}


def test_training_equals_separate_fits(data):
    joint = compile_model(side_by_side(build, 3, seed=5), metrics=["accuracy"])
    weights = np.linspace(0.5, 1.5, 40)
    history = joint.fit(*data, epochs=3, sample_weight=weights, **FIXED).history
    separate, losses = [], []
    for index, member in enumerate(joint.members):
        keras.utils.set_random_seed(5 + index)
        model = compile_model(build(), metrics=["accuracy"])
        logs = model.fit(*data, epochs=3, sample_weight=weights, **FIXED).history
        for mine, other in zip(member.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)
        assert history[f"member_{index + 1}_accuracy"] == pytest.approx(
            logs["accuracy"]
        )
        losses.append(logs["loss"])
        separate.append(logs["accuracy"])
    np.testing.assert_allclose(history["loss"], np.sum(losses, axis=0), rtol=1e-5)
    np.testing.assert_allclose(history["accuracy"], np.mean(separate, axis=0))


def test_losses_that_layers_add_count_once(data):
    def build_with_activity():
        layer = keras.layers.Dense(CLASSES, activity_regularizer="l2")
        flat = [keras.Input((6, 6, 1)), keras.layers.Flatten()]
        return keras.Sequential([*flat, layer])

    joint = compile_model(side_by_side(build_with_activity, 2, seed=0))
    expected = [compile_model(one).evaluate(*data, verbose=0) for one in joint.members]
    compile_model(joint)
    assert joint.evaluate(*data, verbose=0) == pytest.approx(sum(expected), rel=1e-5)


def test_early_stopping_and_evaluation_read_the_mean(data):
    metric = keras.metrics.SparseTopKCategoricalAccuracy(2, name="top_2")
    joint = compile_model(side_by_side(build, 2), metrics=["accuracy", metric])
    stopping = keras.callbacks.EarlyStopping("val_accuracy", patience=1)
    logs = joint.fit(
        *data, epochs=2, validation_data=data, callbacks=[stopping], verbose=0
    ).history
    of_members = [logs[f"val_member_{i}_accuracy"] for i in (1, 2)]
    np.testing.assert_allclose(logs["val_accuracy"], np.mean(of_members, axis=0))
    result = joint.evaluate(*data, verbose=0)
    alone = [one.evaluate(*data, verbose=0)[1:] for one in joint.members]
    np.testing.assert_allclose(result[1:], np.mean(alone, axis=0), rtol=1e-6)


def test_predictions_are_the_mean_of_probabilities(data):
    joint = compile_model(side_by_side(build, 3))
    logits = np.stack([one.predict(data[0], verbose=0) for one in joint.members])
    exponentials = np.exp(logits.astype("float64"))
    expected = combine(exponentials / exponentials.sum(axis=-1, keepdims=True))
    mean = joint.predict(data[0], verbose=0)
    np.testing.assert_allclose(mean, expected, atol=1e-6)
    np.testing.assert_allclose(joint.predict_on_batch(data[0][:4]), mean[:4], atol=1e-6)


def test_a_file_restores_members_and_training(data, tmp_path):
    joint = side_by_side(build, 2, seed=3)
    compile_model(joint, keras.optimizers.Adam(0.01), metrics=["accuracy"])
    joint.fit(*data, verbose=0)
    joint.evaluate(*data, verbose=0)
    joint.save(tmp_path / "joint.keras")
    loaded = keras.saving.load_model(tmp_path / "joint.keras")
    assert isinstance(loaded, layers.SideBySide)
    assert loaded.seeds == [3, 4]
    for model in (joint, loaded):
        model.fit(*data, **FIXED)
    joint.members[1].save(tmp_path / "member.keras")
    member = keras.saving.load_model(tmp_path / "member.keras")
    assert member.evaluate(*data, verbose=0) == pytest.approx(
        joint.members[1].evaluate(*data, verbose=0)
    )
    for one, other in zip(joint.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_seeds():
    def first(joint):
        return [member.get_weights()[0] for member in joint.members]

    keras.utils.set_random_seed(1)
    one, before = first(side_by_side(build, 2)), np.random.random()
    keras.utils.set_random_seed(1)
    np.testing.assert_array_equal(one, first(side_by_side(build, 2)))
    assert np.random.random() == before
    assert not np.allclose(one[0], one[1])
    np.testing.assert_array_equal(
        first(side_by_side(build, 2, seed=7))[1],
        first(side_by_side(build, 2, seed=[1, 8]))[1],
    )


def test_each_member_is_a_learner(data, tmp_path):
    joint = compile_model(side_by_side(build, 2, seed=3), metrics=["accuracy"])
    checkpoint = callbacks.LearnerCheckpoint(tmp_path / "pool", every=2, run="run")
    logs = joint.fit(
        *data, epochs=4, validation_data=data, callbacks=[checkpoint], verbose=0
    ).history
    pool = LearnerPool(tmp_path / "pool")
    assert [learner.name for learner in pool] == [
        f"run-epoch-{epoch:04d}-member-{i}" for epoch in (2, 4) for i in (1, 2)
    ]
    assert [learner.seed for learner in pool] == [3, 4, 3, 4]
    assert len({learner.architecture for learner in pool}) == 1
    last = pool[-1]
    assert set(last.metrics) == {"accuracy", "loss", "val_accuracy", "val_loss"}
    assert last.metrics["val_accuracy"] == logs["val_member_2_accuracy"][-1]
    assert last.metrics["loss"] == logs["member_2_loss"][-1]
    assert last.from_logits
    mean = np.mean(pool.predict(data[0], verbose=0)[2:], axis=0)
    np.testing.assert_allclose(joint.predict(data[0], verbose=0), mean, atol=1e-5)


def test_bootstrap_trains_each_member_on_its_own_resample(data):
    x, y = data
    joint = compile_model(side_by_side(build, 2, seed=5, bootstrap=True))
    weights = joint.bootstrap_weights(40)
    np.testing.assert_array_equal(weights.sum(axis=0), [40, 40])
    assert not np.array_equal(weights[:, 0], weights[:, 1])
    twice = np.repeat([1.0, 2.0], 20)
    joint.fit(*data, epochs=2, sample_weight=twice, **FIXED)
    for index, member in enumerate(joint.members):
        keras.utils.set_random_seed(5 + index)
        model = compile_model(build())
        own = weights[:, index] * twice
        model.fit(x, y, epochs=2, sample_weight=own, **FIXED)
        for mine, other in zip(member.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)


class Batches(keras.utils.PyDataset):
    """Yield the batches of three arrays in their order."""

    def __init__(self, *arrays):
        super().__init__()
        self.arrays = arrays

    def __len__(self):
        return 3

    def __getitem__(self, index):
        rows = slice(16 * index, 16 * index + 16)
        return tuple(array[rows] for array in self.arrays)


def test_bootstrap_of_a_data_set_and_of_a_split(data):
    x, y = data
    joints = [
        compile_model(side_by_side(build, 2, seed=5, bootstrap=True)) for _ in range(3)
    ]
    weights = joints[0].bootstrap_weights(40)
    joints[0].fit(*data, **FIXED)
    joints[1].fit(Batches(x, y, weights), shuffle=False, verbose=0)
    x, y = (np.concatenate([one, one[:10]]) for one in data)
    logs = joints[2].fit(x, y, validation_split=0.2, **FIXED).history
    for joint in joints[1:]:
        for one, other in zip(
            joints[0].get_weights(), joint.get_weights(), strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    unweighted = joints[2].evaluate(x[40:], y[40:], verbose=0)
    assert logs["val_loss"][-1] == pytest.approx(unweighted, rel=1e-5)


def test_members_are_distilled_as_if_alone(data):
    teacher = keras.Sequential([build(), keras.layers.Softmax()])
    loss = losses.Distillation(0.5, from_logits=True)
    settings = {"weighted_metrics": ["accuracy"]}
    joint = side_by_side(build, 2, seed=5)
    joint.compile(keras.optimizers.SGD(0.1), loss, **settings)
    weights = np.linspace(0.5, 1.5, 40).astype("float32")
    batches = distill(teacher, *data, sample_weight=weights, shuffle=False)
    fit = {"validation_data": data, "shuffle": False, "verbose": 0}
    history, total = joint.fit(batches, **fit).history, 0.0
    for index, member in enumerate(joint.members):
        keras.utils.set_random_seed(5 + index)
        model = build()
        model.compile(keras.optimizers.SGD(0.1), loss, **settings)
        alone = model.fit(batches, **fit).history
        for mine, other in zip(member.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)
        for validation in ("", "val_"):
            found = history[f"{validation}member_{index + 1}_accuracy"]
            assert found == pytest.approx(alone[f"{validation}accuracy"])
        total += alone["val_loss"][0]
    assert history["val_loss"] == [pytest.approx(total, rel=1e-5)]


def test_bootstrap_rejects_what_has_no_weights_of_members(data):
    joint = compile_model(side_by_side(build, 2, bootstrap=True))
    x, y = data
    for arrays in ((x, y), (x, y, np.ones(40))):
        with pytest.raises(ValueError, match=r"weights of shape \(batch, 2\)"):
            joint.fit(Batches(*arrays))
    with pytest.raises(ValueError, match="no `class_weight`"):
        joint.fit(x, y, class_weight={0: 2.0})


def build_wide(width):
    """Return a net in which the parameters and products of a layer are known."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(max(1, round(20 * width)), 3)(inputs)
    x = keras.layers.Conv2D(max(1, round(40 * width)), 3)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x))


def cost(filters, units):
    """Return parameters and products of `build_wide`, counted by hand."""
    parameters = 28 * filters + 9 * filters * units + 11 * units + 10
    products = 36 * 27 * filters + 16 * 9 * filters * units + 10 * units
    return np.array([parameters, products])


@pytest.mark.parametrize("n", [2, 4])
def test_equal_width_keeps_the_parameters_and_products_of_one(n):
    def fits(width):
        sizes = max(1, round(20 * width)), max(1, round(40 * width))
        return np.all(n * cost(*sizes) <= cost(20, 40))

    best = max(step / 100 for step in range(1, 101) if fits(step / 100))
    state = np.random.get_state()[1].copy()
    joint = side_by_side(build_wide, n, width="equal", seed=0)
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    filters, units = (one.filters for one in joint.members[0].layers[1:3])
    assert (filters, units) == (round(20 * best), round(40 * best))
    assert joint.members[0].count_params() == cost(filters, units)[0]
    half = side_by_side(build_wide, n, width=0.5, seed=0).members[-1]
    assert half.layers[1].filters == 10


def test_widths_that_do_not_exist_are_rejected():
    with pytest.raises(ValueError, match="Use fewer members"):
        side_by_side(lambda width: build(), 2, width="equal")
    for width in ("half", 0.0):
        with pytest.raises(ValueError, match="positive number, 'equal' or"):
            side_by_side(build_wide, 2, width=width)


def test_channel_pruning_is_rejected_when_fit_begins(data):
    joint = compile_model(side_by_side(build, 2))
    with pytest.raises(ValueError, match="each of its `members` after `fit`"):
        joint.fit(*data, callbacks=[callbacks.ChannelPruning(macs=0.5)], verbose=0)


def masks_of(member):
    return [kernel.mask for kernel in layers.kernels(member)]


@pytest.mark.parametrize("importance", ["magnitude", "random"])
def test_members_are_pruned_one_by_one(importance):
    joint = side_by_side(build, 2, seed=0)
    layers.prepare(joint)
    first = layers.kernels(joint.members[0])
    for kernel in first:  # by size alone, all of these would go first
        kernel.variable.assign(1e-3 * kernel.weights)
    callbacks.prune(joint, 0.5, importance=importance, allocation="global")
    for member in joint.members:
        assert layers.sparsity(member) == pytest.approx(0.5, abs=0.02)
    one, other = map(masks_of, joint.members)
    assert not all(map(np.array_equal, one, other))


def test_random_masks_differ_by_member():
    joint = side_by_side(build, 2, seed=0)
    layers.prepare(joint)
    callbacks.sparsify_at_random(joint, 0.5)
    one, other = map(masks_of, joint.members)
    assert all(
        layers.sparsity(x) == pytest.approx(0.5, abs=0.02) for x in joint.members
    )
    assert not all(map(np.array_equal, one, other))


def test_a_scope_chooses_in_each_member():
    joint = side_by_side(build, 2)
    layers.prepare(joint)
    chosen = layers.Scope(first=False)(joint)
    assert [kernel.path for kernel in chosen] == ["head", "head"]
    report = layers.sparsity_report(joint)
    assert [row[0] for row in report.rows] == [
        f"member_{i}/{name}" for i in (1, 2) for name in ("conv", "head")
    ]


def test_a_scope_must_choose_in_each_member():
    def build_without_names():
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])

    joint = side_by_side(build_without_names, 2)
    layers.prepare(joint)
    name = joint.members[0].layers[-1].name
    with pytest.raises(ValueError, match="a scope that chooses kernels of"):
        layers.Scope(name)(joint)


def test_members_train_sparse_and_quantised_to_equal_files(data, tmp_path):
    joint = compile_model(side_by_side(build, 2, seed=0), metrics=["accuracy"])
    joint.members[0].evaluate(*data, verbose=0)  # compiles a step without masks
    schedule = schedules.PolynomialDecay(0.0, 0.5, end=0.5)
    scope = layers.Scope(last=False)
    logs = joint.fit(
        *data,
        epochs=4,
        callbacks=[
            callbacks.WeightPruning(schedule, scope=scope, importance="random"),
            callbacks.QuantizationAwareTraining(start=0.5),
        ],
        verbose=0,
    ).history
    assert logs["quantized"] == [0, 0, 1, 1]
    first, second = map(masks_of, joint.members)
    assert not np.array_equal(first[0], second[0])
    for member in joint.members:
        assert [np.mean(mask) for mask in masks_of(member)] == [0.5, 1.0]
        logits = member.predict(data[0], verbose=0)
        assert not np.allclose(logits, layers.strip(member).predict(data[0], verbose=0))
        assert_equals_its_file(member, tmp_path)
    assert layers.keeps_state(joint)
    copy = layers.clone(joint)
    expected = [one.predict(data[0], verbose=0) for one in joint.members]
    found = [one.predict(data[0], verbose=0) for one in copy.members]
    np.testing.assert_array_equal(found, expected)
    joint.save(tmp_path / "joint.keras")
    loaded = keras.saving.load_model(tmp_path / "joint.keras", compile=False)
    found = [one.predict(data[0], verbose=0) for one in loaded.members]
    np.testing.assert_array_equal(found, expected)
    plain = layers.strip(joint)
    assert not layers.kernels(plain)
    assert isinstance(plain, layers.SideBySide)


def test_dynamic_sparse_training_moves_connections_of_each_member(data):
    joint = compile_model(side_by_side(build, 2, seed=0))
    training = callbacks.DynamicSparseTraining(0.5, data=data, frequency=1, end=1.0)
    layers.prepare(joint)
    callbacks.sparsify_at_random(joint, 0.5)
    before = list(map(masks_of, joint.members))
    joint.fit(*data, epochs=1, callbacks=[training], verbose=0)
    for member, old in zip(joint.members, before, strict=True):
        assert layers.sparsity(member) == pytest.approx(0.5, abs=0.02)
        assert not all(map(np.array_equal, masks_of(member), old))


def test_gradients_are_those_of_each_member(data):
    joint = compile_model(side_by_side(build, 2, seed=0))
    layers.prepare(joint)
    together = layers.kernel_gradients(joint, *data)
    alone = [x for one in joint.members for x in layers.kernel_gradients(one, *data)]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_cycles_of_channels_yield_members_of_different_shape(data, tmp_path):
    joint = compile_model(side_by_side(build_wide, 2, width=0.5, seed=3))
    mask = masks.Channels(macs=0.6, noise=2.0, round_to=1, min_channels=1)
    pool = LearnerPool(tmp_path / "pool")
    cycles = callbacks.LearnerCycles(pool, 1, callbacks.Cycle(mask=mask, compact=True))
    x = np.zeros((40, 8, 8, 3), "float32")
    joint.fit(x, data[1], callbacks=[cycles], verbose=0)
    shapes = [[one.shape for one in x.load().get_weights()] for x in pool]
    assert len(shapes) == 2
    assert shapes[0] != shapes[1]


@pytest.mark.parametrize("mask", [masks.Magnitude((0.2, 0.6)), masks.RandomHalves()])
def test_each_cycle_yields_all_members(data, tmp_path, mask):
    joint = compile_model(side_by_side(build, 2, seed=3), metrics=["accuracy"])
    cycle = callbacks.Cycle(initial="parent", mask=mask, learning_rate=0.01)
    pool = LearnerPool(tmp_path / "pool")
    cycles = callbacks.LearnerCycles(
        pool, 2, cycle, warmup=1 / 3, run="run", validation_data=data[0], seed=1
    )
    logs = joint.fit(*data, epochs=3, callbacks=[cycles], verbose=0).history
    assert [learner.name for learner in pool] == [
        f"run-cycle-00{cycle}-member-{i}" for cycle in (0, 1) for i in (1, 2)
    ]
    assert [learner.seed for learner in pool] == [3, 4, 3, 4]
    kept = [masks_of(learner.load())[0] for learner in pool]
    assert not any(np.array_equal(kept[i], kept[j]) for i in range(4) for j in range(i))
    classes = pool.predict(data[0], verbose=0).argmax(axis=-1)
    expected = np.mean(
        [(classes[i] != classes[j]).mean() for i in (2, 3) for j in range(4) if i != j]
    )
    assert logs["disagreement"][-1] == pytest.approx(expected)
    ensemble = EnsemblePruner(pool, n_members=2, random_state=0)
    ensemble.prune(*data)
    assert ensemble.predict(data[0], verbose=0).shape == (40, CLASSES)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": ["mse", "mse"]}, "the loss and the metrics of one member"),
        ({"loss": "mse", "loss_weights": [1, 1]}, "without `loss_weights`"),
        ({"loss": "mse", "metrics": [["mae"], ["mae"]]}, "of one member"),
        (
            {"optimizer": keras.optimizers.SGD(global_clipnorm=1.0), "loss": "mse"},
            "Use `clipnorm`",
        ),
    ],
)
def test_settings_of_several_outputs_are_rejected(settings, message):
    with pytest.raises(ValueError, match=message):
        side_by_side(build, 2).compile(**settings)


def test_members_that_are_not_independent_are_rejected():
    shared = keras.layers.Dense(2)

    def build_shared():
        return keras.Sequential([keras.Input((4,)), shared, keras.layers.Dense(2)])

    with pytest.raises(ValueError, match="2 common weights"):
        side_by_side(build_shared, 2)
    shared.trainable = False
    side_by_side(build_shared, 2)

    def build_two_outputs():
        inputs = keras.Input((4,))
        return keras.Model(inputs, [keras.layers.Dense(2)(inputs) for _ in range(2)])

    with pytest.raises(ValueError, match=r"members with \[2, 2\] outputs"):
        side_by_side(build_two_outputs, 2)


def test_bad_members_are_rejected(tmp_path):
    model = build()
    for members in ([], [model, model]):
        with pytest.raises(ValueError, match="each of them once"):
            layers.SideBySide(members)
    with pytest.raises(ValueError, match="2 seeds"):
        layers.SideBySide([model, build()], seeds=[1])
    with pytest.raises(ValueError, match="n=0"):
        side_by_side(build, 0)
    joint = side_by_side(build, 2)
    with pytest.raises(ValueError, match="Add each of its `members`"):
        LearnerPool(tmp_path / "pool").add(joint)
    with pytest.raises(ValueError, match="Export each of its `members`"):
        export_tflite(joint, tmp_path / "joint.tflite")
