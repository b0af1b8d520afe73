from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selection_cases import pools
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss

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
            confidence = np.mean([max(p[i]) for i in inside])
            total += len(inside) / len(y) * abs(right - confidence)
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


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_weighted_against_scikit_learn(seed):
    p, y = pool(seed)
    weights = np.random.default_rng(seed).uniform(0, 2, len(y))
    results = selection.accuracy(p, y, sample_weight=weights)
    expected = [accuracy_score(y, x.argmax(-1), sample_weight=weights) for x in p]
    np.testing.assert_allclose(results, expected)
    p = (p + 1e-3) / (1 + 3e-3)
    results = selection.negative_log_likelihood(p, y, sample_weight=weights)
    expected = [log_loss(y, x, labels=[0, 1, 2], sample_weight=weights) for x in p]
    np.testing.assert_allclose(results, expected)
    # A score of several classes is the sum of the scores of each against the rest.
    results = selection.brier_score(p, y, sample_weight=weights)
    expected = [
        sum(brier_score_loss(y == k, x[:, k], sample_weight=weights) for k in range(3))
        for x in p
    ]
    np.testing.assert_allclose(results, expected)


METRICS = [
    selection.accuracy,
    selection.negative_log_likelihood,
    selection.brier_score,
]


@pytest.mark.parametrize("metric", METRICS)
def test_integer_weights_are_repeated_samples(metric):
    p, y = pool(0)
    weights = np.arange(len(y)) % 3
    repeated = np.repeat(np.arange(len(y)), weights)
    weighted = metric(p, y, sample_weight=weights)
    np.testing.assert_allclose(weighted, metric(p[:, repeated], y[repeated]))
    one = metric(p[0], y, sample_weight=weights)
    assert np.ndim(one) == 0
    np.testing.assert_allclose(one, weighted[0])
    np.testing.assert_array_equal(metric(p, y, sample_weight=None), metric(p, y))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("weights", [[1.0], -np.ones(30), np.zeros(30)])
def test_invalid_weights(metric, weights):
    with pytest.raises(ValueError, match="non-negative weights"):
        metric(*pool(0), sample_weight=weights)


@given(st.integers(0, 10**6), st.integers(1, 20))
@settings(max_examples=25, deadline=None)
def test_calibration_error_against_the_definition(seed, n_bins):
    p, y = pool(seed)
    # Confidences on the edges of bins, and certain ones, belong to the bin below.
    p = np.round(p[0] * 5) / 5
    p = np.where(p.sum(-1, keepdims=True) == 1, p, np.eye(3)[y])
    result = selection.expected_calibration_error(p, y, n_bins=n_bins)
    assert result == pytest.approx(literal_calibration_error(p, y, n_bins))


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


def test_a_zero_probability_costs_the_same_as_in_keras():
    loss = selection.negative_log_likelihood(np.float32([[1, 0]]), [1])
    assert loss == pytest.approx(-np.log(1e-7))


def test_logits_are_rejected():
    with pytest.raises(ValueError, match="from_logits=True"):
        selection.accuracy([[3.0, -2.0]], [0])


def literal_brier(p, y):
    total = 0.0
    for row, label in zip(p, y, strict=True):
        total += sum((q - (k == label)) ** 2 for k, q in enumerate(row))
    return total / len(y)


@given(pools())
@settings(max_examples=25, deadline=None)
def test_brier_score_against_loops(case):
    p, y = case
    expected = [literal_brier(learner, y) for learner in p]
    np.testing.assert_allclose(selection.brier_score(p, y), expected)
    assert selection.brier_score(p[1], y) == pytest.approx(expected[1])
    half = selection.brier_score(np.float16(p), y)
    np.testing.assert_allclose(half, expected, atol=0.005)


def test_brier_score_of_two_classes_is_twice_that_of_scikit_learn():
    p, y = pool(5, n_classes=2)
    for result, learner in zip(selection.brier_score(p, y), p, strict=True):
        assert result == pytest.approx(2 * brier_score_loss(y, learner[:, 1]))


def test_brier_score_reaches_its_bounds():
    assert selection.brier_score([[1, 0, 0]], [0]) == 0
    assert selection.brier_score([[1, 0, 0]], [2]) == 2
    assert np.ndim(selection.brier_score([[1, 0, 0]], [2])) == 0


def test_brier_score_leaves_its_input_alone_and_reads_it_in_blocks(monkeypatch):
    p, y = pool(6, n_learners=5)
    p.flags.writeable = False
    whole = selection.brier_score(p, y)
    monkeypatch.setattr("keras_micronets.selection.validation.BLOCK_BYTES", 1)
    np.testing.assert_array_equal(selection.brier_score(p, y), whole)


def literal_adaptive_error(p, happened, n_bins):
    """Average ties, cut the sorted samples, and weigh the gap of each bin."""
    n, total = len(p), 0.0
    order = sorted(range(n), key=lambda i: p[i])
    n_bins = min(n_bins, n)
    for b in range(n_bins):
        inside = [order[i] for i in range(n) if b * n // n_bins <= i]
        inside = inside[: (b + 1) * n // n_bins - b * n // n_bins]
        shares = [
            np.mean([happened[j] for j in range(n) if p[j] == p[i]]) for i in inside
        ]
        gap = np.mean(shares) - np.mean([p[i] for i in inside])
        total += abs(gap) * len(inside) / n
    return total


@given(pools(), st.integers(1, 20))
@settings(max_examples=40, deadline=None)
def test_adaptive_calibration_error_against_loops(case, n_bins):
    p, y = case[0][0], case[1]
    of_classes = [
        literal_adaptive_error(p[:, k], y == k, n_bins) for k in range(p.shape[1])
    ]
    result = selection.adaptive_calibration_error(p, y, n_bins=n_bins)
    assert result == pytest.approx(np.mean(of_classes))
    result = selection.adaptive_calibration_error(p, y, n_bins=n_bins, of="predicted")
    expected = literal_adaptive_error(p.max(1), p.argmax(1) == y, n_bins)
    assert result == pytest.approx(expected)


def test_adaptive_calibration_error_by_hand():
    p = [[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.4, 0.6]]
    error = selection.adaptive_calibration_error
    assert error(p, [0, 0, 1, 1], n_bins=2) == pytest.approx((0.15 + 0.5) / 2)
    # By the predicted class: 0.6 and 0.6, of which one is right, then 0.8 and 0.9.
    of_predicted = error(p, [0, 0, 1, 1], n_bins=2, of="predicted")
    assert of_predicted == pytest.approx((0.1 + 0.15) / 2)
    # Three bins cut the four samples after the first and the second.
    of_predicted = error(p, [0, 0, 1, 1], n_bins=3, of="predicted")
    assert of_predicted == pytest.approx((0.1 + 0.1 + (0.2 + 0.1)) / 4)


def test_one_bin_is_the_gap_of_the_means():
    p, y = pool(7, n_learners=1)
    error = selection.adaptive_calibration_error(p[0], y, n_bins=1, of="predicted")
    assert error == pytest.approx(abs(p[0].max(1).mean() - selection.accuracy(p[0], y)))


def test_a_perfect_predictor_has_no_error():
    _, y = pool(8)
    p = np.eye(3)[y]
    assert selection.adaptive_calibration_error(p, y) == 0
    assert selection.area_under_risk_coverage(p, y) == 0


def literal_risk_coverage(confidence, wrong):
    """Average the area over all the orders in which samples may be dropped."""
    areas = []
    for order in permutations(range(len(confidence))):
        if all(confidence[i] >= confidence[j] for i, j in pairwise(order)):
            risks = [
                np.mean([wrong[i] for i in order[: k + 1]])
                for k in range(len(confidence))
            ]
            areas.append(np.mean(risks))
    return np.mean(areas)


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None)
def test_risk_and_coverage_against_all_orders_of_ties(samples):
    levels, wrong = zip(*samples, strict=True)
    confidence = 0.6 + np.array(levels) / 10
    p, y = np.stack([confidence, 1 - confidence], axis=1), np.array(wrong, int)
    result = selection.area_under_risk_coverage(p, y)
    expected = literal_risk_coverage(confidence, wrong)
    assert result == pytest.approx(expected)
    result = selection.area_under_risk_coverage(p[:, ::-1], 1 - y, confidence=levels)
    assert result == pytest.approx(expected)


def test_risk_and_coverage_by_hand():
    p = [[0.9, 0.1], [0.8, 0.2], [0.4, 0.6]]
    area = selection.area_under_risk_coverage
    assert area(p, [0, 1, 1]) == pytest.approx((0 + 1 / 2 + 1 / 3) / 3)
    assert area(p, [0, 1, 1], confidence=[1, 0, 1]) == pytest.approx(1 / 9)
    assert area(p, [0, 1, 1], confidence=[0, 0, 0]) == pytest.approx(1 / 3)
    assert area(p, [1, 1, 0]) == 1


@given(pools(), st.integers(0, 100))
@settings(max_examples=25, deadline=None)
def test_the_order_of_samples_does_not_matter(case, seed):
    p, y = case[0][0], case[1]
    order = np.random.default_rng(seed).permutation(len(y))
    for measure in (
        selection.brier_score,
        selection.adaptive_calibration_error,
        selection.area_under_risk_coverage,
    ):
        assert measure(p[order], y[order]) == pytest.approx(measure(p, y))


def literal_auroc(doubt_in, doubt_out):
    wins = [(b > a) + (b == a) / 2 for a in doubt_in for b in doubt_out]
    return np.mean(wins)


@given(pools(), st.integers(1, 9))
@settings(max_examples=25, deadline=None)
def test_auroc_against_all_pairs(case, n_foreign):
    p, _ = case
    own, foreign = p[0], p[1][:n_foreign]
    result = selection.ood_auroc(own, foreign)
    assert result == pytest.approx(literal_auroc(-own.max(1), -foreign.max(1)))
    doubts = [
        [round(-sum(q * np.log(q) for q in sorted(row) if q > 0), 12) for row in rows]
        for rows in (own, foreign)
    ]
    result = selection.ood_auroc(own, foreign, score="entropy")
    assert result == pytest.approx(literal_auroc(*doubts))


def test_auroc_by_hand():
    own, foreign = [[0.9, 0.1], [0.2, 0.8]], [[0.6, 0.4], [0.1, 0.9]]
    assert selection.ood_auroc(own, foreign) == pytest.approx(2.5 / 4)
    assert selection.ood_auroc([[1, 0]], [[0.5, 0.5]], score="entropy") == 1
    assert selection.ood_auroc([[0.5, 0.5]], [[1, 0]]) == 0
    # The same confidence, but another entropy.
    own, foreign = [[0.6, 0.4, 0.0]], [[0.6, 0.2, 0.2]]
    assert selection.ood_auroc(own, foreign) == 0.5
    assert selection.ood_auroc(own, foreign, score="entropy") == 1


def test_rows_of_the_same_numbers_have_the_same_entropy():
    p, _ = pool(9, n_classes=7)
    for row in p[0]:
        rolled = np.stack([np.roll(row, k) for k in range(7)])
        assert selection.ood_auroc([row], rolled[:, ::-1], score="entropy") == 0.5


ONE_PREDICTOR = [
    selection.adaptive_calibration_error,
    selection.area_under_risk_coverage,
    lambda p, y: selection.ood_auroc(p, p),
    lambda p, y: selection.ood_auroc(p[0], p),
]


@pytest.mark.parametrize("measure", ONE_PREDICTOR)
def test_several_predictors_are_rejected(measure):
    with pytest.raises(ValueError, match="one predictor"):
        measure(*pool(0))


def test_bad_input():
    p, y = pool(0)
    p = p[0]
    with pytest.raises(ValueError, match="at least one bin"):
        selection.adaptive_calibration_error(p, y, n_bins=0)
    with pytest.raises(ValueError, match=r"of to be one of \['all', 'predicted'\]"):
        selection.adaptive_calibration_error(p, y, of="some")
    for confidence in (y[1:], p, np.full(30, np.nan)):
        with pytest.raises(ValueError, match=r"confidence of shape \(30,\)"):
            selection.area_under_risk_coverage(p, y, confidence=confidence)
    with pytest.raises(ValueError, match=r"score to be one of .*'entropy'"):
        selection.ood_auroc(p, p, score="margin")
    with pytest.raises(ValueError, match="same classes"):
        selection.ood_auroc(p, np.full((4, 2), 0.5))
    with pytest.raises(ValueError, match="from_logits=True"):
        selection.brier_score([[3.0, -2.0]], [0])
