import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize_scalar
from selection_cases import pools

from keras_micronets.selection import (
    apply_temperature,
    calibrated_negative_log_likelihood,
    choose_temperature,
    fit_temperature,
    negative_log_likelihood,
)


def predictor(seed, n_samples=80, n_classes=3, overconfidence=1.0):
    """Return calibrated probabilities, then made overconfident."""
    random = np.random.default_rng(seed)
    p = random.dirichlet(np.full(n_classes, 0.7), n_samples) + 0.01
    p /= p.sum(axis=1, keepdims=True)
    y = (random.random((n_samples, 1)) > p.cumsum(axis=1)[:, :-1]).sum(axis=1)
    p = p**overconfidence
    return p / p.sum(axis=1, keepdims=True), y


def literal_scaling(p, temperature):
    rows = []
    for row in p:
        powers = [max(float(q), 1e-7) ** (1 / temperature) for q in row]
        rows.append([power / sum(powers) for power in powers])
    return np.array(rows)


def slope(inverse, p, y):
    """Derivative of the loss: the mean logarithm expected, less that of the labels."""
    scaled = literal_scaling(p, 1 / inverse)
    logs = np.log(np.maximum(p, 1e-7))
    return np.mean((scaled * logs).sum(axis=1) - logs[np.arange(len(y)), y])


@given(pools(), st.floats(0.05, 20))
@settings(max_examples=40, deadline=None)
def test_scaling_against_loops(case, temperature):
    p, _ = case
    result = apply_temperature(p, temperature)
    assert result.shape == p.shape
    for ours, learner in zip(result, p, strict=True):
        np.testing.assert_allclose(ours, literal_scaling(learner, temperature))
    np.testing.assert_array_equal(apply_temperature(p[0], temperature), result[0])


def test_scaling_by_hand():
    np.testing.assert_allclose(apply_temperature([[0.9, 0.1]], 2), [[0.75, 0.25]])
    np.testing.assert_allclose(
        apply_temperature([[0.9, 0.1]], 0.5), [[81 / 82, 1 / 82]]
    )
    np.testing.assert_allclose(apply_temperature([[0.9, 0.1]], 1), [[0.9, 0.1]])
    np.testing.assert_allclose(apply_temperature([[1.0, 0.0]], 1), [[1, 0]], atol=2e-7)


def test_the_predicted_class_stays():
    p, _ = predictor(2)
    for temperature in (0.05, 0.7, 20):
        scaled = apply_temperature(p, temperature)
        np.testing.assert_array_equal(scaled.argmax(axis=1), p.argmax(axis=1))


@given(st.integers(0, 10**6), st.floats(0.4, 3))
@settings(max_examples=25, deadline=None)
def test_the_slope_is_zero_at_the_temperature_found(seed, overconfidence):
    p, y = predictor(seed, overconfidence=overconfidence)
    expected = 1 / brentq(slope, 1e-3, 100, (p, y), xtol=1e-12)
    expected = min(max(expected, 0.05), 20)
    assert fit_temperature(p, y) == pytest.approx(expected, rel=1e-4)


@given(pools())
@settings(max_examples=40, deadline=None)
def test_no_other_temperature_is_better(case):
    p, y = case[0][0], case[1]
    result = fit_temperature(p, y)
    assert 0.05 <= result <= 20

    def loss(temperature):
        return -np.log(literal_scaling(p, temperature)[np.arange(len(y)), y]).mean()

    others = np.geomspace(0.05, 20, 60)
    assert loss(result) <= min(map(loss, others)) + 1e-9
    assert loss(result) <= loss(1.0) + 1e-12


def test_confidence_of_nine_tenths_and_accuracy_of_three_quarters():
    p = [[0.9, 0.1]] * 4
    assert fit_temperature(p, [0, 0, 0, 1]) == pytest.approx(2, rel=1e-5)
    assert fit_temperature(np.float16(p), [0, 0, 0, 1]) == pytest.approx(2, rel=1e-3)
    assert type(fit_temperature(p, [0, 0, 0, 1])) is float


@pytest.mark.parametrize("before", [0.5, 1.7, 3.0])
def test_scaling_is_undone(before):
    p, y = predictor(4, n_samples=300)
    result = fit_temperature(p, y)
    scaled = apply_temperature(p, before)
    assert fit_temperature(scaled, y) * before == pytest.approx(result, rel=1e-4)


def test_an_overconfident_predictor_gets_a_high_temperature():
    p, y = predictor(5, n_samples=4000, overconfidence=2.5)
    result = fit_temperature(p, y)
    assert result == pytest.approx(2.5, rel=0.1)
    scaled = apply_temperature(p, result)
    assert negative_log_likelihood(scaled, y) < negative_log_likelihood(p, y)
    assert fit_temperature(scaled, y) == pytest.approx(1, rel=1e-4)


def test_where_the_data_sets_no_limit():
    y = np.arange(12) % 3
    for sure in (0.5, 0.9, 1.0):
        p = np.full((12, 3), (1 - sure) / 2)
        p[range(12), y] = sure
        assert fit_temperature(p, y) == 0.05
        assert fit_temperature(p, (y + 1) % 3) == 20
        assert fit_temperature(p, y, bounds=(0.5, 4)) == 0.5
        assert fit_temperature(p, (y + 1) % 3, bounds=(0.5, 4)) == 4


def test_equal_probabilities():
    y = np.arange(12) % 3
    p = np.full((12, 3), 1 / 3)
    assert fit_temperature(p, y) == 1
    assert fit_temperature(p, y, bounds=(2, 5)) == 2
    assert fit_temperature(p, y, bounds=(0.2, 0.5)) == 0.5
    p[:, 0] += 1e-15
    assert fit_temperature(p, y) == 1
    # A seventh and its rounding in half precision.
    assert fit_temperature(np.full((7, 7), 1 / 7, np.float16), range(7)) == 1


def test_a_certain_mistake_does_not_make_the_loss_infinite():
    p, y = np.eye(3)[[0, 1, 2, 0]], [0, 1, 2, 1]
    result = fit_temperature(p, y)
    # Three of four right: e^(z/T) = 3 * 2 with z the logarithm of 1e7.
    assert result == pytest.approx(np.log(1e7) / np.log(6), rel=1e-4)
    assert np.isfinite(apply_temperature(p, result)).all()


def test_bad_input():
    p, y = predictor(6)
    for temperature in (0, -1, np.inf, np.nan):
        with pytest.raises(ValueError, match="positive temperature"):
            apply_temperature(p, temperature)
    for bounds in ((0, 1), (2, 1), (1, 1), (1, np.inf), (np.nan, 2)):
        with pytest.raises(ValueError, match="bounds"):
            fit_temperature(p, y, bounds=bounds)
    with pytest.raises(ValueError, match="one predictor"):
        fit_temperature(p[None], y)
    with pytest.raises(ValueError, match="labels of shape"):
        fit_temperature(p, y[1:])
    with pytest.raises(ValueError, match="from_logits=True"):
        apply_temperature([[3.0, -2.0]], 2)


def literal_loss(temperature, p, y):
    return -np.log(literal_scaling(p, temperature)[np.arange(len(y)), y]).mean()


def test_calibrated_likelihood_against_a_literal_search():
    (held_out, fit_y), (p, y) = (
        predictor(seed, 200, overconfidence=2.0) for seed in range(2)
    )
    search = minimize_scalar(literal_loss, (0.5, 3), args=(held_out, fit_y))
    expected = literal_loss(search.x, p, y)
    found = calibrated_negative_log_likelihood(p, y, held_out=(held_out, fit_y))
    assert found == pytest.approx(expected, rel=1e-6)
    assert found < negative_log_likelihood(p, y)


def test_calibrated_likelihood_of_many_learners():
    given = [predictor(seed, overconfidence=2.0)[0] for seed in range(4)]
    (_, y), (_, fit_y) = predictor(8), predictor(9)
    p, held_out = np.stack(given[:2]), np.stack(given[2:])
    each = [
        calibrated_negative_log_likelihood(p[i], y, held_out=(held_out[i], fit_y))
        for i in range(2)
    ]
    found = calibrated_negative_log_likelihood(p, y, held_out=(held_out, fit_y))
    np.testing.assert_array_equal(found, each)
    assert each[0] != each[1]


def test_calibrated_likelihood_does_not_depend_on_the_confidence():
    (p, y), (held_out, fit_y) = predictor(0, 500), predictor(1, 500)
    losses = [
        calibrated_negative_log_likelihood(
            apply_temperature(p, t), y, held_out=(apply_temperature(held_out, t), fit_y)
        )
        for t in (0.7, 1.0, 2.0)
    ]
    assert losses == pytest.approx([losses[1]] * 3, rel=1e-6)


def test_calibrated_likelihood_of_bad_input():
    p, y = predictor(0)
    for held_out in ((p[None], y), (p[:, :2] / p[:, :2].sum(1, keepdims=True), y % 2)):
        with pytest.raises(ValueError, match="same learners and classes"):
            calibrated_negative_log_likelihood(p, y, held_out=held_out)
    with pytest.raises(ValueError, match="labels"):
        calibrated_negative_log_likelihood(p, y, held_out=(p, y[1:]))


def test_a_temperature_that_pays_is_chosen():
    p, y = predictor(0, 500, overconfidence=2.0)
    assert choose_temperature(p, y) == fit_temperature(p, y) > 1.5
    p, y = predictor(0, 500, overconfidence=0.5)
    assert choose_temperature(p, y) == fit_temperature(p, y) < 0.7


def test_a_temperature_is_chosen_by_the_standard_error_of_its_gain():
    chosen = {True: 0, False: 0}
    for seed in range(40):
        p, y = predictor(seed, 200, overconfidence=1.15)
        t = fit_temperature(p, y)
        before, after = (
            -np.log(literal_scaling(p, each)[np.arange(200), y]) for each in (1, t)
        )
        pays = (before - after).mean() > np.std(before - after, ddof=1) / 200**0.5
        assert choose_temperature(p, y) == (t if pays else 1)
        chosen[bool(pays)] += 1
    assert min(chosen.values()) > 5


def test_a_temperature_in_use_stays_unless_another_pays():
    p, y = predictor(0, 500, overconfidence=2.0)
    best = fit_temperature(p, y)
    assert choose_temperature(p, y, default=1.02 * best) == 1.02 * best
    assert choose_temperature(p, y, default=0.4) == best
    assert choose_temperature(p[:20], y[:20], default=0.4) == 0.4


def test_no_temperature_is_chosen_without_evidence():
    calibrated = [choose_temperature(*predictor(seed, 300)) for seed in range(40)]
    assert np.mean(np.equal(calibrated, 1)) > 0.8
    p, y = predictor(0, 49, overconfidence=3.0)
    assert fit_temperature(p, y) > 1.5
    assert choose_temperature(p, y) == 1  # too few samples
    p, y = predictor(1, 300)
    right = p.argmax(axis=1)
    assert fit_temperature(p, right) == 0.05
    assert choose_temperature(p, right) == 1  # all right: no limit
    wrong = p.argmin(axis=1)
    assert fit_temperature(p, wrong) == 20
    assert choose_temperature(p, wrong) == 1
    with pytest.raises(ValueError, match="one predictor"):
        choose_temperature(p[None], y)
