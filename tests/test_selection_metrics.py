from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, log_loss

from keras_micronets import selection


def pool(seed, n_learners=4, n_samples=30, n_classes=3):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(n_classes, 0.5), (n_learners, n_samples))
    return p, rng.integers(0, n_classes, n_samples)


def literal_calibration_error(p, y, n_bins):
    edges, total = np.linspace(0, 1, n_bins + 1), 0.0
    for low, high in pairwise(edges):
        inside = [i for i in range(len(y)) if low < max(p[i]) <= high]
        if inside:
            right = np.mean([np.argmax(p[i]) == y[i] for i in inside])
            sure = np.mean([max(p[i]) for i in inside])
            total += len(inside) / len(y) * abs(right - sure)
    return total


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_against_scikit_learn(seed):
    p, y = pool(seed)
    accuracies = [accuracy_score(y, learner.argmax(-1)) for learner in p]
    np.testing.assert_allclose(selection.accuracy(p, y), accuracies)
    p = (p + 1e-3) / (1 + 3e-3)
    losses = [log_loss(y, learner, labels=[0, 1, 2]) for learner in p]
    np.testing.assert_allclose(selection.negative_log_likelihood(p, y), losses)


@given(st.integers(0, 10**6), st.integers(1, 20))
@settings(max_examples=25, deadline=None)
def test_calibration_error_against_the_definition(seed, n_bins):
    p, y = pool(seed)
    # Confidences on the edges of bins, and certain ones, belong to the bin below.
    p = np.round(p[0] * 5) / 5
    p = np.where(p.sum(-1, keepdims=True) == 1, p, np.eye(3)[y])
    found = selection.expected_calibration_error(p, y, n_bins=n_bins)
    assert found == pytest.approx(literal_calibration_error(p, y, n_bins))


def test_calibration_error_by_hand():
    p = [[0.8, 0.2], [0.8, 0.2], [0.4, 0.6], [1.0, 0.0]]
    error = selection.expected_calibration_error(p, [0, 1, 1, 0])
    assert error == pytest.approx((2 * 0.3 + 0.4 + 0) / 4)


def test_calibration_error_wants_one_predictor_and_a_bin():
    p, y = pool(0)
    with pytest.raises(ValueError, match="one predictor"):
        selection.expected_calibration_error(p, y)
    with pytest.raises(ValueError, match="at least one bin"):
        selection.expected_calibration_error(p[0], y, n_bins=0)


def test_one_predictor_gives_a_scalar():
    p, y = pool(1)
    for metric in (selection.accuracy, selection.negative_log_likelihood):
        assert metric(p[2], y) == metric(p, y)[2]
        assert np.ndim(metric(p[2], y)) == 0


def test_one_hot_and_sparse_labels_agree():
    p, y = pool(2)
    for form in (y[:, None], np.eye(3)[y]):
        np.testing.assert_array_equal(
            selection.negative_log_likelihood(p, form),
            selection.negative_log_likelihood(p, y),
        )


def test_a_zero_probability_costs_what_keras_says():
    loss = selection.negative_log_likelihood(np.float32([[1, 0]]), [1])
    assert loss == pytest.approx(-np.log(1e-7))


def test_logits_are_refused():
    with pytest.raises(ValueError, match="from_logits=True"):
        selection.accuracy([[3.0, -2.0]], [0])


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_disagreement_against_loops(seed):
    p, _ = pool(seed)
    found = selection.disagreement(p)
    for i in range(len(p)):
        for j in range(len(p)):
            pairs = zip(p[i], p[j], strict=True)
            different = [np.argmax(a) != np.argmax(b) for a, b in pairs]
            assert found[i, j] == pytest.approx(np.mean(different))
