"""`cluster_then_forward`: members that pay, and no others."""

import numpy as np
import pytest
from sklearn.cluster import DBSCAN, AgglomerativeClustering

import keras_micronets as kmn
from keras_micronets.selection import (
    Selection,
    SizeChoice,
    cluster,
    cluster_then_forward,
    negative_log_likelihood,
    selection_report,
)


def binary(*likelihoods):
    """Return learners of two classes from their probabilities of the right one, 0."""
    right = np.array(likelihoods)
    return np.stack([right, 1 - right], axis=2), np.zeros(right.shape[1], int)


def complementary(n_samples=400):
    """Return two learners good on 60 % and on the rest, and three bad everywhere."""
    most = np.arange(n_samples) % 5 < 3
    bad = [np.where(most, a, b) for a, b in ((0.2, 0.3), (0.3, 0.2), (0.25, 0.25))]
    return binary(np.where(most, 0.9, 0.4), np.where(most, 0.4, 0.9), *bad)


# The log-likelihood 0.6 log(0.4 + 0.5 w) + 0.4 log(0.9 - 0.5 w) of the two is highest
# at w = 0.76.
SINGLE = -(0.6 * np.log(0.9) + 0.4 * np.log(0.4))
PAIR = -(0.6 * np.log(0.78) + 0.4 * np.log(0.52))
# Over the samples, the difference of the losses has two values.
DEVIATION = (np.log(0.52 / 0.4) - np.log(0.78 / 0.9)) * np.sqrt(0.6 * 0.4)


def noisy(seed, n_samples, qualities, noise=1.0):
    """Return learners of three classes whose logits are right by their quality."""
    random = np.random.default_rng(seed)
    y = random.integers(0, 3, n_samples)
    logits = noise * random.normal(size=(len(qualities), n_samples, 3))
    logits += np.asarray(qualities)[:, None, None] * np.eye(3)[y]
    p = np.exp(logits)
    return p / p.sum(axis=2, keepdims=True), y


def test_complementary_learners_are_kept_and_bad_ones_are_not():
    p, y = complementary()

    kept = cluster_then_forward(p, y, 5, random_state=0)

    np.testing.assert_array_equal(kept.indices, [0, 1])
    np.testing.assert_allclose(kept.weights, [0.76, 0.24], atol=0.01)
    assert kept.size.n_members == 2
    np.testing.assert_allclose(kept.size.losses[:2], [SINGLE, PAIR], atol=0.002)
    assert kept.size.gain == pytest.approx(SINGLE - PAIR, abs=0.002)
    assert kept.size.gain_error == pytest.approx(DEVIATION / np.sqrt(400), rel=0.05)


def test_a_gain_within_its_error_adds_no_member_where_asked():
    p, y = complementary(20)
    assert DEVIATION / np.sqrt(20) > SINGLE - PAIR

    kept = cluster_then_forward(p, y, 5, standard_errors=1, random_state=0)

    np.testing.assert_array_equal(kept.indices, [0])
    np.testing.assert_array_equal(kept.weights, [1])
    assert kept.size.gain == 0


def test_the_lowest_held_out_loss_is_kept():
    p, y = complementary(80)
    assert DEVIATION / np.sqrt(80) > SINGLE - PAIR

    few = cluster_then_forward(p, y, 5, standard_errors=1, random_state=0)
    kept = cluster_then_forward(p, y, 5, random_state=0)

    np.testing.assert_array_equal(few.indices, [0])
    assert {0, 1} <= set(kept.indices)
    assert kept.size.n_members == kept.size.losses.argmin() + 1
    with pytest.raises(ValueError, match="standard_errors=-1"):
        cluster_then_forward(p, y, 2, standard_errors=-1)


def test_one_good_learner_stays_alone():
    p, y = noisy(0, 300, [4, 0, 0, 0, 0, 0])

    kept = cluster_then_forward(p, y, 4, random_state=0)

    np.testing.assert_array_equal(kept.indices, [0])
    assert "1 of at most 4 members" in str(kept.size)


def test_good_learners_of_one_cluster_replace_what_the_clusters_propose():
    """Bad learners far from all others take the clusters, the good ones share one."""
    p, y = noisy(1, 600, [1.5] * 6)
    odd = np.full((3, 600, 3), 0.01)
    for i in range(3):
        odd[i, :, i] = 0.98  # always the same class, and certain of it
    p = np.concatenate([p, odd])

    kept = cluster_then_forward(p, y, 4, random_state=0)
    by_rule = cluster(p, y, 4, random_state=0)

    assert set(by_rule.indices) > {6, 7, 8}
    assert len(kept.indices) > 1
    assert set(kept.indices) < set(range(6))
    assert kept.size.source == "all learners"
    test, labels = noisy(2, 2000, [1.5] * 6)
    test = np.concatenate([test, np.resize(odd[:, :1], (3, 2000, 3))])
    losses = [
        negative_log_likelihood(s.combined(test), labels) for s in (kept, by_rule)
    ]
    assert losses[0] < losses[1]


@pytest.mark.parametrize("n_members", [2, 8])
def test_no_worse_than_the_best_learner_on_other_samples(n_members):
    """On 25 pools of learners that differ in quality, chosen on 100 samples."""
    differences = []
    for seed in range(25):
        qualities = np.random.default_rng(seed).uniform(-1, 2, 8)
        p, y = noisy(seed, 600, qualities)
        kept = cluster_then_forward(p[:, :100], y[:100], n_members, random_state=0)
        best = p[negative_log_likelihood(p[:, :100], y[:100]).argmin(), 100:]
        ours = negative_log_likelihood(kept.combined(p[:, 100:]), y[100:])
        differences.append(ours - negative_log_likelihood(best, y[100:]))
    error = np.std(differences, ddof=1) / np.sqrt(25)
    assert np.mean(differences) < -2 * error


def test_more_members_than_distinct_learners():
    p, y = complementary()

    kept = cluster_then_forward(np.concatenate([p[:2], p[:2], p[:2]]), y, 6)

    assert len(kept.indices) == 2
    assert kept.size.losses.shape == (2,)
    assert "there are no others" in str(kept.size)


def test_weights_are_fitted_where_that_pays():
    """A learner that is right 19 times of 20, and one that is right the other time."""
    rare = np.arange(400) % 20 == 0
    p, y = binary(np.where(rare, 0.02, 0.98), np.where(rare, 0.98, 0.02))

    kept = cluster_then_forward(p, y, 2, random_state=0)

    # The likelihood 0.02 + 0.96 w of 95 % and 0.98 - 0.96 w of 5 % is highest at
    # (0.95 * 0.98 - 0.05 * 0.02) / 0.96.
    np.testing.assert_allclose(kept.weights, [0.96875, 0.03125], atol=0.002)
    assert np.log(0.5) < -kept.size.losses[1]


def test_the_number_of_clusters_may_be_found():
    p, y = noisy(3, 300, [1.0] * 9)

    for n_members in ("silhouette", "loss"):
        kept = cluster_then_forward(p, y, n_members, max_members=3, random_state=0)
        assert len(kept.indices) <= kept.size.max_members <= 3
    agglomerative = AgglomerativeClustering(3)
    kept = cluster_then_forward(p, y, None, clusterer=agglomerative)
    assert kept.size.max_members == 3 == len(np.unique(kept.labels))


def test_noise_may_be_the_best_learner():
    """The clusterer calls all but the bad learners noise."""
    p, y = complementary()
    bad = [0.3 * p[2] + 0.7 * p[3], 0.5 * p[2] + 0.5 * p[3], 0.7 * p[2] + 0.3 * p[3]]
    p = np.stack([*p[:2], *bad])

    kept = cluster_then_forward(p, y, 2, clusterer=DBSCAN(1.5, min_samples=2))

    np.testing.assert_array_equal(kept.labels, [-1, -1, 0, 0, 0])
    np.testing.assert_array_equal(kept.indices, [0, 1])
    report = selection_report(p, y, kept, names="abcde")
    assert [row.why for row in report.rows[:2]] == ["noise, kept"] * 2


def test_representatives_by_a_rule_are_proposed():
    p, y = noisy(4, 300, [1.0] * 8)
    for rule in ("accuracy", "medoid", "best_cluster"):
        kept = cluster_then_forward(p, y, 3, representative=rule, random_state=0)
        proposed = cluster(p, y, 3, representative=rule, random_state=0).indices
        best = negative_log_likelihood(p, y).argmin()
        if kept.size.source == "clusters":
            assert set(kept.indices) <= {*proposed, best}


def test_errors():
    p, y = complementary()
    with pytest.raises(ValueError, match="two samples"):
        cluster_then_forward(p[:, :1], y[:1], 2)
    with pytest.raises(ValueError, match="from 1 to 5"):
        cluster_then_forward(p, y, 6)
    with pytest.raises(ValueError, match="representative"):
        cluster_then_forward(p, y, 2, representative="best")


@pytest.mark.parametrize(
    ("n_members", "losses", "reason"),
    [
        (2, [0.9, 0.5, 0.4996, 0.51], "1 more would lower the held-out loss by 0.0004"),
        (2, [0.9, 0.5, 0.52, 0.499], "2 more would lower the held-out loss by 0.0010"),
        (2, [0.9, 0.5, 0.52, 0.51], "more do not lower the held-out loss"),
        (4, [0.9, 0.5, 0.4, 0.3], "fewer would be worse, and no more are permitted"),
        (2, [0.9, 0.5], "fewer would be worse, and there are no others"),
    ],
)
def test_the_reason_is_told(n_members, losses, reason):
    errors = np.array([0.01, 0, 0.0006, 0.0006])[: len(losses)]

    text = str(SizeChoice(n_members, 4, np.array(losses), errors, 100, "clusters"))

    assert reason in text
    assert f"{n_members} of at most 4 members, out of clusters" in text
    assert f"Gain: {0.9 - losses[n_members - 1]:.4f} ± 0.0100" in text


def test_the_default_of_the_ensemble():
    p, y = complementary()

    ensemble = kmn.EnsemblePruner(p, n_members=5, random_state=0).prune(None, y)

    expected = cluster_then_forward(p, y, 5, random_state=0)
    assert ensemble.selection_.method == "cluster_then_forward"
    np.testing.assert_array_equal(ensemble.selection_.indices, expected.indices)
    np.testing.assert_array_equal(ensemble.selection_.weights, expected.weights)
    assert str(ensemble.selection_.size) in str(ensemble.report_)
    few = kmn.EnsemblePruner(p[:3], random_state=0).prune(None, y)
    assert few.selection_.size.max_members == 3


def test_clusterer_and_representative_of_the_ensemble_reach_the_method():
    p, y = noisy(5, 300, [1.0] * 8)
    options = {
        "clusterer": AgglomerativeClustering(4),
        "representative": "loss",
    }

    ensemble = kmn.EnsemblePruner(p, random_state=0, **options).prune(None, y)

    expected = cluster_then_forward(p, y, None, random_state=0, **options)
    np.testing.assert_array_equal(ensemble.selection_.indices, expected.indices)
    np.testing.assert_array_equal(ensemble.selection_.labels, expected.labels)


def test_a_selection_without_it_has_no_size():
    p, y = complementary()
    assert cluster(p, y, 2).size is None
    assert Selection.uniform([0], np.zeros(5, int), method="mine").size is None
