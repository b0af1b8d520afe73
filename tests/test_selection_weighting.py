import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_micronets.selection import fit_weights, negative_log_likelihood


def pool(seed, n_members=4):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, 60)
    p = rng.dirichlet(np.ones(3), (n_members, 60)) + 0.1
    p[:, range(60), y] += rng.random((n_members, 60)) * rng.random((n_members, 1)) * 3
    return p / p.sum(-1, keepdims=True), y


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_weights_are_optimal(seed):
    p, y = pool(seed)
    weights = fit_weights(p, y, n_iterations=2000)
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1)
    best = negative_log_likelihood(np.average(p, axis=0, weights=weights), y)
    assert best <= negative_log_likelihood(p.mean(0), y) + 1e-12
    for corner in np.eye(len(p)):
        moved = np.average(p, axis=0, weights=0.99 * weights + 0.01 * corner)
        assert negative_log_likelihood(moved, y) > best - 1e-5


def test_more_iterations_are_never_worse():
    p, y = pool(1)
    steps = (0, 1, 5, 20, 200)
    weights = [fit_weights(p, y, n_iterations=n) for n in steps]
    losses = [
        negative_log_likelihood(np.average(p, axis=0, weights=w), y) for w in weights
    ]
    assert losses == sorted(losses, reverse=True)
    np.testing.assert_allclose(fit_weights(p, y, n_iterations=0), 0.25)


def test_a_useless_member_loses_its_weight():
    y = np.arange(30) % 3
    p = np.stack([np.full((30, 3), 1 / 3), np.eye(3)[y] * 0.9 + 1 / 30])
    np.testing.assert_allclose(fit_weights(p, y), [0, 1], atol=1e-6)


def test_labels_that_nobody_thought_possible():
    weights = fit_weights([[[1.0, 0.0]], [[1.0, 0.0]]], [1])
    np.testing.assert_allclose(weights, 0.5)


def test_bad_input():
    p, y = pool(3)
    with pytest.raises(ValueError, match="n_iterations=-1"):
        fit_weights(p, y, n_iterations=-1)
    with pytest.raises(ValueError, match="learners, samples, classes"):
        fit_weights(p[0], y)
