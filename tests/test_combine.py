import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_micronets.edge.combine import RULES, combine


def probabilities_of(seed, members=5, samples=7, classes=4):
    rng = np.random.default_rng(seed)
    drawn = rng.dirichlet(np.full(classes, 0.3), (members, samples))
    return drawn.astype("float32")


def weights_of(rule, seed, members):
    if rule != "weights":
        return None
    return np.random.default_rng(seed).dirichlet(np.ones(members))


drawn = given(
    seed=st.integers(0, 2**32 - 1),
    members=st.integers(1, 6),
    samples=st.integers(0, 5),
    classes=st.integers(1, 6),
    rule=st.sampled_from(RULES),
)


@settings(max_examples=50, deadline=None)
@drawn
def test_rows_sum_to_one(seed, members, samples, classes, rule):
    p = probabilities_of(seed, members, samples, classes)
    combined = combine(p, rule=rule, weights=weights_of(rule, seed, members))
    assert combined.shape == (samples, classes)
    assert (combined >= 0).all()
    np.testing.assert_allclose(combined.sum(-1), 1, atol=1e-5)


@settings(max_examples=50, deadline=None)
@drawn
def test_order_of_members_does_not_matter(seed, members, samples, classes, rule):
    p = probabilities_of(seed, members, samples, classes)
    weights = weights_of(rule, seed, members)
    order = np.random.default_rng(seed).permutation(members)
    moved = combine(
        p[order], rule=rule, weights=None if weights is None else weights[order]
    )
    expected = combine(p, rule=rule, weights=weights)
    np.testing.assert_allclose(moved, expected, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_keras_ops_give_the_same(rule):
    p, weights = probabilities_of(0), weights_of(rule, 0, 5)
    tensor = keras.ops.convert_to_tensor(p)
    combined = combine(tensor, rule=rule, weights=weights, xp=keras.ops)
    expected = combine(p, rule=rule, weights=weights)
    assert expected.dtype == "float32"
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(combined), expected, atol=1e-6
    )


@pytest.mark.parametrize("rule", RULES)
def test_symbolic_tensors(rule):
    p = keras.KerasTensor((5, None, 4))
    combined = combine(p, rule=rule, weights=weights_of(rule, 0, 5), xp=keras.ops)
    assert (combined.shape, combined.dtype) == ((None, 4), "float32")
    assert not combined.sparse


def test_mean_and_weights_by_hand():
    p = np.array([[[1.0, 0.0]], [[0.25, 0.75]]])
    np.testing.assert_allclose(combine(p), [[0.625, 0.375]])
    weighted = combine(p, rule="weights", weights=[0.2, 0.8])
    np.testing.assert_allclose(weighted, [[0.4, 0.6]], atol=1e-6)


def test_mean_logits_by_hand():
    p = np.array([[[0.9, 0.1]], [[0.5, 0.5]]])
    np.testing.assert_allclose(combine(p, rule="logit"), [[0.75, 0.25]])
    sure = np.array([[[1.0, 0.0]], [[0.2, 0.8]]])
    together = np.sqrt([1.0 * 0.2, 0.001 * 0.8])
    expected = together / together.sum()
    np.testing.assert_allclose(combine(sure, rule="logit")[0], expected)


def test_vote_follows_the_majority_against_the_mean():
    p = np.array([[[0.51, 0.49]], [[0.51, 0.49]], [[0.0, 1.0]]])
    assert combine(p)[0].argmax() == 1
    assert combine(p, rule="vote")[0].argmax() == 0


def test_vote_resolves_a_tie_by_the_mean():
    p = np.array([[[0.6, 0.4, 0.0]], [[0.1, 0.9, 0.0]]])
    combined = combine(p, rule="vote")
    assert combined[0].argmax() == 1
    expected = (np.array([0.5, 0.5, 0]) + 0.25 * p.mean(0)[0]) / 1.25
    np.testing.assert_allclose(combined[0], expected)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), members=st.integers(1, 7))
def test_vote_never_overrules_a_majority(seed, members):
    p = probabilities_of(seed, members, samples=20)
    votes = np.stack([(p.argmax(-1) == c).sum(0) for c in range(p.shape[-1])], -1)
    winner = combine(p, rule="vote").argmax(-1)
    rows = np.arange(len(winner))
    np.testing.assert_array_equal(votes[rows, winner], votes.max(-1))


@pytest.mark.parametrize("rule", ["mean", "logit", "weights"])
@pytest.mark.parametrize("temperature", [0.05, 0.5, 1.0, 1.7, 20.0])
def test_temperature_against_powers(rule, temperature):
    p, weights = probabilities_of(3), weights_of(rule, 0, 5)
    plain = combine(p, rule=rule, weights=weights)
    powers = np.maximum(plain, 1e-7).astype("float64") ** (1 / temperature)
    expected = powers / powers.sum(axis=-1, keepdims=True)
    scaled = combine(p, rule=rule, weights=weights, temperature=temperature)
    np.testing.assert_allclose(scaled, expected, atol=1e-5)
    assert scaled.dtype == "float32"
    tensor = keras.ops.convert_to_tensor(p)
    options = {"rule": rule, "weights": weights, "temperature": temperature}
    found = keras.ops.convert_to_numpy(combine(tensor, **options, xp=keras.ops))
    np.testing.assert_allclose(found, scaled, atol=1e-5)
    symbolic = combine(keras.KerasTensor((5, None, 4)), **options, xp=keras.ops)
    assert symbolic.shape == (None, 4)


def test_temperature_by_hand():
    p = np.array([[[0.9, 0.1]], [[0.9, 0.1]]], "float32")
    np.testing.assert_allclose(combine(p, temperature=2.0), [[0.75, 0.25]], rtol=1e-6)
    np.testing.assert_array_equal(combine(p, temperature=1.0), combine(p))
    sure = np.array([[[1.0, 0.0]]], "float32")
    expected = 1 / (1 + 1e-7**0.5)  # zeros are raised to 1e-7
    assert combine(sure, temperature=2.0)[0, 0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("temperature", [0, -1, np.nan, np.inf, 1e-4, 1e4])
def test_unsuitable_temperatures(temperature):
    with pytest.raises(ValueError, match=r"temperature from 0\.001 to 1000"):
        combine(probabilities_of(0), temperature=temperature)
    with pytest.raises(ValueError, match=r"temperature=1.0 with rule='vote'"):
        combine(probabilities_of(0), rule="vote", temperature=2.0)


@pytest.mark.parametrize("temperature", [1e-3, 1e3])
@pytest.mark.parametrize("classes", [1, 2, 1000])
def test_extreme_temperatures_stay_finite(temperature, classes):
    p = probabilities_of(1, classes=classes)
    scaled = combine(p, temperature=temperature)
    np.testing.assert_allclose(scaled.sum(-1), 1, atol=1e-5)
    rows, best = np.arange(len(scaled)), combine(p).argmax(-1)
    np.testing.assert_array_equal(scaled[rows, best], scaled.max(-1))


def test_unknown_rule():
    with pytest.raises(ValueError, match=r"rule out of.*Received: rule='median'"):
        combine(probabilities_of(0), rule="median")


@pytest.mark.parametrize(
    "weights", [None, [0.5, 0.5], [0.5] * 5, [-1, 1, 1, 0, 0], [np.nan] * 5]
)
def test_unsuitable_weights(weights):
    with pytest.raises(ValueError, match="Expected 5 non-negative weights"):
        combine(probabilities_of(0), rule="weights", weights=weights)


def test_weights_without_their_rule():
    with pytest.raises(ValueError, match="omit them"):
        combine(probabilities_of(0), weights=[0.2] * 5)
