import keras
import numpy as np
import pytest
from tiny_keras import compiled, data, dense_model

from keras_micronets import EnsemblePruner, LearnerPool, layers, train_prune2edge
from keras_micronets.prune2edge import draw_prune2edge

pytestmark = pytest.mark.filterwarnings("ignore:Expected a trained parent")


@pytest.fixture
def pool(tmp_path):
    return LearnerPool(tmp_path / "pool")


def run(parent, pool, n=3, **options):
    x, y = data(64)
    options = {"learning_rate": 1e-2, "verbose": 0} | options
    train_prune2edge(parent, pool, x, y, n_learners=n, epochs=1, **options)


def test_samples_are_reproducible_and_in_the_published_ranges():
    drawn = [draw_prune2edge(i, seed=1) for i in range(200)]
    assert drawn == [draw_prune2edge(i, seed=1) for i in range(200)]
    assert all(0.2 <= one.sparsity <= 0.55 for one in drawn)
    assert {one.frequency for one in drawn} == {50, 75, 100}
    assert {one.batch_size for one in drawn} == {16, 32, 64}
    assert len({one.loss for one in drawn}) == 3
    assert all(round(one.sparsity, 2) == one.sparsity for one in drawn)


@pytest.mark.parametrize("activation", ["softmax", None])
def test_learners_are_pruned_as_sampled_and_the_parent_is_not(pool, activation):
    parent = dense_model(activation=activation)
    if activation is None:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        compiled(parent, loss=loss)
    before = [w.copy() for w in parent.get_weights()]
    run(parent, pool)
    for old, now in zip(before, parent.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)
    for index, learner in enumerate(pool):
        drawn = draw_prune2edge(index, 0)
        assert learner.sparsity == pytest.approx(drawn.sparsity, abs=0.01)
        assert learner.metrics["loss"] == drawn.loss
        assert learner.from_logits == (activation is None)


@pytest.mark.slow
def test_resumes_after_an_interruption(pool, tmp_path):
    whole = LearnerPool(tmp_path / "whole")
    for sequential in (False, True):
        options = {"sequential": sequential, "run": f"sequential-{sequential}"}
        run(dense_model(), pool, 1, **options)
        run(dense_model(), pool, 3, **options)
        run(dense_model(), whole, 3, **options)
    for ours, theirs in zip(pool, whole, strict=True):
        assert ours.name == theirs.name
        pairs = zip(ours.load().get_weights(), theirs.load().get_weights(), strict=True)
        for a, b in pairs:
            np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.slow
def test_sequential_learners_start_from_the_previous_one(pool):
    run(dense_model(), pool, 2, sequential=False, run="apart", learning_rate=1e-9)
    run(dense_model(), pool, 2, sequential=True, run="sequential", learning_rate=1e-9)
    first, second = (
        layers.kernels(pool[f"sequential-000{i}"].load())[0].mask for i in range(2)
    )
    # At a tiny learning rate, weights that the first lost are zero in the second.
    smaller, larger = sorted((first, second), key=np.sum)
    assert (larger | ~smaller).all()
    apart = layers.kernels(pool["apart-0000"].load())[0].mask
    np.testing.assert_array_equal(apart, first)


def test_accepts_one_hot_labels(pool):
    x, y = data(64)
    train_prune2edge(
        dense_model(), pool, x, np.eye(3)[y], n_learners=1, epochs=1, verbose=0
    )
    assert len(pool) == 1


def test_requires_from_logits_if_it_cannot_be_inferred(pool):
    parent = dense_model(activation=None)
    with pytest.raises(ValueError, match="from_logits"):
        run(parent, pool, 1)
    run(parent, pool, 1, from_logits=True)
    assert pool[0].from_logits


def test_warns_of_a_parent_that_is_not_trained(pool):
    with pytest.warns(UserWarning, match="Expected a trained parent"):
        run(dense_model(), pool, n=1)


def test_another_parent_is_another_run(pool):
    run(dense_model(0), pool, 1)
    run(dense_model(1), pool, 1)
    run(dense_model(0), pool, 2)
    assert [learner.name for learner in pool] == [
        "prune2edge-0000",
        "prune2edge-0001",
        "prune2edge-2-0000",
    ]
    with pytest.raises(ValueError, match="the run of the same parent"):
        run(dense_model(1), pool, 1, run="prune2edge")


def test_a_damaged_learner_is_trained_again(pool):
    run(dense_model(), pool, 2)
    before = pool[0].load().get_weights()
    pool[0].path.write_bytes(b"x")
    with pytest.warns(UserWarning, match="prune2edge-0000"):
        run(dense_model(), pool, 2)
    assert len(pool) == 2
    for found, expected in zip(pool[0].load().get_weights(), before, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


#: Units, last activation and compiled loss of a parent.
ERRORS = {"mean_squared_error", "mean_absolute_error"}
TASKS = {
    "binary": (1, "sigmoid", "binary_crossentropy"),
    "multilabel": (3, "sigmoid", "binary_crossentropy"),
    "regression": (2, None, "mse"),
    "reconstruction": (8, None, "mse"),
}


def task_data(task):
    x, _ = data(64)
    units = TASKS[task][0]
    weights = np.random.default_rng(1).normal(size=(8, units)) / 3
    hidden = (x - x.mean(axis=0)) @ weights
    if task == "reconstruction":
        return x, x
    return x, (hidden if task == "regression" else (hidden > 0)).astype("float32")


def parent_of(task, activation="of the task"):
    units, last, loss = TASKS[task]
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dense(
                units, activation=last if activation == "of the task" else activation
            ),
        ]
    )
    return compiled(model, loss=loss, metrics=[])


def tuned(parent, pool, x, y, n=3, **options):
    options = {"epochs": 8, "learning_rate": 2e-2, "verbose": 0} | options
    train_prune2edge(parent, pool, x, y, n_learners=n, **options)
    return pool.predict(x, verbose=0)


@pytest.mark.parametrize("task", TASKS)
def test_other_tasks(pool, task):
    x, y = task_data(task)
    parent = parent_of(task)
    before = np.mean((parent.predict(x, verbose=0) - y) ** 2)
    predictions = tuned(parent, pool, x, y)

    assert {learner.task for learner in pool} == {task}
    losses = {learner.metrics["loss"] for learner in pool}
    crossentropy = {"binary_crossentropy"} if parent.loss != "mse" else set()
    assert losses <= ERRORS | crossentropy
    for index, one in enumerate(predictions):
        assert np.mean((one - y) ** 2) < before
        drawn = draw_prune2edge(index, 0)
        hidden = layers.kernels(pool[index].load())[0]
        assert 1 - hidden.mask.mean() == pytest.approx(drawn.sparsity, abs=0.01)
    ensemble = EnsemblePruner(pool, 2, method="top_k").prune(x, y, verbose=0)
    assert ensemble.task_ == task


@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_logits_are_trained_as_their_probabilities(tmp_path, task):
    x, y = task_data(task)
    pools = [LearnerPool(tmp_path / name) for name in ("probabilities", "logits")]
    options = {"losses": ["mean_squared_error"], "epochs": 2, "learning_rate": 1e-3}
    expected = tuned(parent_of(task), pools[0], x, y, 1, **options)
    with_logits = parent_of(task, activation=None)
    found = tuned(
        with_logits, pools[1], x, y, 1, task=task, from_logits=True, **options
    )
    assert pools[1][0].from_logits
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_form_of_the_targets_does_not_matter(tmp_path):
    x, y = task_data("binary")
    forms = (y, y[:, 0], y[:, 0].astype(int), y[:, 0] * 2 - 1)
    pools = [LearnerPool(tmp_path / str(i)) for i in range(len(forms))]
    first, *others = (
        tuned(parent_of("binary"), pool, x, form, 1, epochs=1)
        for pool, form in zip(pools, forms, strict=True)
    )
    for other in others:
        np.testing.assert_allclose(other, first, atol=1e-6)


def test_a_reconstruction_needs_no_targets_and_resumes(pool):
    x, _ = task_data("reconstruction")
    tuned(parent_of("reconstruction"), pool, x, None, 1, epochs=1)
    tuned(parent_of("reconstruction"), pool, x, x, 2, epochs=1)
    assert [x.name for x in pool] == ["prune2edge-0000", "prune2edge-0001"]


@pytest.mark.parametrize(
    ("task", "y", "expected"),
    [
        ("regression", np.zeros((64, 3)), "targets of shape"),
        ("regression", np.zeros(64), "targets of shape"),
        ("regression", None, "targets of shape"),
        ("multilabel", np.zeros((63, 3)), "targets of shape"),
        ("multilabel", np.full((64, 3), 2), "zeros and ones"),
        ("binary", np.arange(64), "zeros and ones"),
        ("binary", np.array(["yes", "no"] * 32), "labels as integers"),
    ],
)
def test_targets_that_do_not_fit_are_told_before_training(pool, task, y, expected):
    x, _ = task_data(task)
    with pytest.raises(ValueError, match=expected):
        tuned(parent_of(task), pool, x, y)
    assert not len(pool)
    assert not list((pool.path / "runs").glob("*"))


@pytest.mark.parametrize("y", [np.full(64, 3), np.zeros((64, 2)), np.zeros(9, int)])
def test_labels_that_do_not_fit_are_told_before_training(pool, y):
    with pytest.raises(ValueError, match="Expected"):
        tuned(dense_model(), pool, data(64)[0], y)
    assert not len(pool)


def test_a_task_that_does_not_suit_the_outputs(pool):
    x, y = data(64)
    with pytest.raises(ValueError, match="Expected a binary classifier"):
        tuned(dense_model(), pool, x, y, task="binary")
