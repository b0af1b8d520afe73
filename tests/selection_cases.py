"""Random pools with ties and copies, and checks of any selection."""

import numpy as np
from hypothesis import strategies as st


def pool(seed, n_learners=8, n_samples=12, n_classes=3, *, coarse=True, copies=True):
    """Return probabilities and labels.

    Args:
        seed: Integer.
        n_learners: Integer, before copies are made of some.
        n_samples: Integer.
        n_classes: Integer.
        coarse: Whether probabilities are multiples of 1/8, so that ties abound.
        copies: Whether some learners are there twice.
    """
    random = np.random.default_rng(seed)
    y = random.integers(0, n_classes, n_samples)
    skill = random.uniform(0.0, 3.0, (n_learners, 1, 1))
    logits = random.normal(size=(n_learners, n_samples, n_classes))
    p = np.exp(logits + skill * np.eye(n_classes)[y])
    p /= p.sum(axis=2, keepdims=True)
    if coarse:
        p = np.floor(p * 8) / 8
        p[..., 0] += 1 - p.sum(axis=2)
    if copies:
        p = np.concatenate([p, p[random.integers(0, n_learners, 2)]])
    return p, y


@st.composite
def pools(draw, min_classes=2):
    """Pools of 2 to 10 learners, with ties and copies."""
    return pool(
        draw(st.integers(0, 10_000)),
        draw(st.integers(2, 8)),
        draw(st.integers(1, 15)),
        draw(st.integers(min_classes, 4)),
        coarse=draw(st.booleans()),
        copies=draw(st.booleans()),
    )


def predicted_by(p, selection):
    """Return the kept learners as sorted pairs of predictions and weights.

    Copies of a learner differ in their indices only, so two selections from the same
    learners in another order have the same pairs.
    """
    return sorted(
        (p[i].tobytes(), round(float(w), 9))
        for i, w in zip(selection.indices, selection.weights, strict=True)
    )


def check_permuted(choose, p, y, seed=0):
    """Check that another order of the learners keeps the same ones."""
    order = np.random.default_rng(seed).permutation(len(p))
    assert predicted_by(p[order], choose(p[order], y)) == predicted_by(p, choose(p, y))


def check_selection(selection, n_learners, n_members):
    """Check the properties of any selection."""
    indices, weights = selection.indices, selection.weights
    assert 1 <= len(indices) <= n_members
    assert (np.diff(indices) > 0).all()
    assert indices.min() >= 0
    assert indices.max() < n_learners
    assert len(selection.labels) == n_learners
    assert weights.shape == indices.shape
    assert (weights > 0).all()
    np.testing.assert_allclose(weights.sum(), 1)
