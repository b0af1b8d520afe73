import keras
import numpy as np
import pytest
from tiny_keras import compiled, data, dense_model

from keras_micronets import LearnerPool, layers, train_prune2edge
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
