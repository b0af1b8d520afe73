import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.cluster import (
    DBSCAN,
    HDBSCAN,
    AgglomerativeClustering,
    KMeans,
    SpectralClustering,
)
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline

from keras_micronets.selection import cluster


class FixedLabels(ClusterMixin, BaseEstimator):
    def __init__(self, labels=()):
        self.labels = labels

    def fit(self, X, y=None):
        self.shape_ = X.shape
        self.labels_ = np.array(self.labels)
        return self


def pool(seed, n_learners=9, n_samples=20, n_classes=3):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(n_classes), (n_learners, n_samples))
    return p, rng.integers(0, n_classes, n_samples)


def with_correct(counts, n_samples=10):
    """Learners of two classes that are right on the given numbers of samples."""
    p = np.full((len(counts), n_samples, 2), 0.5)
    for learner, count in zip(p, counts, strict=True):
        learner[:count] = [0.9, 0.1]
        learner[count:] = [0.1, 0.9]
    return p, np.zeros(n_samples, int)


def literal_choice(p, y, labels, representative):
    """Choose with loops, straight from the definitions."""
    groups = {}
    for i, label in enumerate(labels):
        if label >= 0:
            groups.setdefault(label, []).append(i)
    right = [np.mean([np.argmax(r) == t for r, t in zip(q, y, strict=True)]) for q in p]
    loss = [-np.mean([np.log(r[t]) for r, t in zip(q, y, strict=True)]) for q in p]
    if representative == "best_cluster":
        scores = {
            k: (
                round(np.mean([right[i] for i in g]), 9),
                -np.mean([loss[i] for i in g]),
            )
            for k, g in groups.items()
        }
        return sorted(groups[max(scores, key=scores.get)])
    chosen = []
    for group in groups.values():
        if representative == "accuracy":
            chosen.append(min(group, key=lambda i: (-right[i], loss[i], i)))
        else:
            mean = sum(p[i] for i in group) / len(group)
            far = {i: round(float(((p[i] - mean) ** 2).sum()), 12) for i in group}
            chosen.append(min(group, key=lambda i: (far[i], i)))
    return sorted(chosen)


@pytest.mark.parametrize("representative", ["accuracy", "centroid", "best_cluster"])
@given(st.integers(0, 10**6), st.lists(st.integers(-1, 3), min_size=9, max_size=9))
@settings(max_examples=25, deadline=None)
def test_against_the_definitions(representative, seed, labels):
    labels[0] = 2
    p, y = pool(seed)
    chosen = cluster(
        p, y, None, clusterer=FixedLabels(labels), representative=representative
    )
    expected = literal_choice(p, y, labels, representative)
    np.testing.assert_array_equal(chosen.indices, expected)
    np.testing.assert_array_equal(chosen.labels, labels)
    np.testing.assert_allclose(chosen.weights, 1 / len(expected))


def test_pypruning_local_index_is_not_the_learner_index():
    # PyPruning's cluster_accuracy keeps the index *within* the cluster, here 1 and 0.
    p, y = with_correct([1, 2, 3, 9, 8, 4])
    chosen = cluster(p, y, 2, clusterer=FixedLabels([0, 0, 1, 0, 1, 1]))
    np.testing.assert_array_equal(chosen.indices, [3, 4])


def test_the_last_cluster_counts_when_the_best_is_sought():
    # The authors' acc_first loops over range(0, largest label) and never sees it.
    p, y = with_correct([3, 4, 5, 6, 9, 8])
    chosen = cluster(
        p,
        y,
        None,
        clusterer=FixedLabels([0, 0, 1, 1, 2, 2]),
        representative="best_cluster",
    )
    np.testing.assert_array_equal(chosen.indices, [4, 5])


def test_ties_in_accuracy_go_to_the_likelier_then_the_earlier():
    p, y = with_correct([5, 5, 5, 7, 7])
    p[1, 0] = [1.0, 0.0]
    chosen = cluster(p, y, 2, clusterer=FixedLabels([0, 0, 0, 1, 1]))
    np.testing.assert_array_equal(chosen.indices, [1, 3])


def test_of_two_learners_the_centroid_takes_the_first():
    for seed in range(8):
        p, y = pool(seed, n_learners=2)
        chosen = cluster(p, y, 1, representative="centroid")
        np.testing.assert_array_equal(chosen.indices, [0])


@given(st.integers(0, 10**6), st.permutations(range(9)))
@settings(max_examples=25, deadline=None)
def test_permuting_learners_permutes_the_answer(seed, order):
    p, y = pool(seed)
    chosen = cluster(p, y, 3, clusterer=AgglomerativeClustering(3))
    permuted = cluster(p[order], y, 3, clusterer=AgglomerativeClustering(3))
    np.testing.assert_array_equal(
        np.sort(np.array(order)[permuted.indices]), chosen.indices
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_kmeans_finds_obvious_groups(dtype):
    rng = np.random.default_rng(0)
    truth = np.repeat(range(4), 5)
    p = np.eye(4)[truth][:, None].repeat(6, 1) * 5 + rng.random((20, 6, 4))
    p = (p / p.sum(-1, keepdims=True)).astype(dtype)
    chosen = cluster(p, [0] * 6, random_state=0)
    assert (chosen.method, chosen.representative) == ("KMeans", "accuracy")
    np.testing.assert_array_equal(truth[chosen.indices], range(4))
    assert len(set(zip(truth, chosen.labels, strict=True))) == 4
    again = cluster(p, [0] * 6, random_state=0)
    np.testing.assert_array_equal(again.labels, chosen.labels)


def test_features_are_all_probabilities_of_a_learner():
    seen = []

    class Spy(FixedLabels):
        def fit(self, X, y=None):
            seen.append(X)
            return super().fit(X)

    p, y = pool(0)
    cluster(p, y, 1, clusterer=Spy([0] * 9))
    np.testing.assert_array_equal(seen[0], p.reshape(9, 60))


@pytest.mark.parametrize(
    "clusterer",
    [
        KMeans(3, n_init=2),
        AgglomerativeClustering(3, metric="cosine", linkage="average"),
        SpectralClustering(3),
        make_pipeline(PCA(3), KMeans(3, n_init=2)),
    ],
)
def test_any_clusterer_will_do_and_is_not_touched(clusterer):
    before = {k: repr(v) for k, v in clusterer.get_params().items()}
    p, y = pool(1)
    chosen = cluster(p, y, 3, clusterer=clusterer, random_state=0)
    again = cluster(p, y, None, clusterer=clusterer, random_state=0)
    assert len(chosen.indices) == 3
    np.testing.assert_array_equal(again.labels, chosen.labels)
    assert {k: repr(v) for k, v in clusterer.get_params().items()} == before
    assert not hasattr(clusterer, "labels_")


def test_a_seed_of_the_user_is_kept():
    seen = []

    class Seeded(FixedLabels):
        def __init__(self, labels=(), random_state=None):
            super().__init__(labels)
            self.random_state = random_state

        def fit(self, X, y=None):
            seen.append(self.random_state)
            return super().fit(X)

    p, y = pool(2)
    for own in (None, 7):
        cluster(p, y, 1, clusterer=Seeded([0] * 9, own), random_state=3)
    assert seen == [3, 7]


def test_noise_is_in_no_cluster():
    p, y = with_correct([6] * 6 + [8] * 5 + [0], n_samples=8)
    p[:11, 0] += np.linspace(0, 0.02, 11)[:, None] * [1, -1]
    hdbscan = HDBSCAN(min_cluster_size=4, copy=True)
    for clusterer in (hdbscan, DBSCAN(eps=0.1, min_samples=2)):
        chosen = cluster(p, y, None, clusterer=clusterer)
        assert chosen.labels[-1] == -1
        assert len(chosen.indices) == 2
        assert 11 not in chosen.indices


def test_duplicates_count_once():
    p, y = pool(3, n_learners=3)
    p = p[[0, 1, 2, 0, 1, 2]]
    with pytest.raises(
        ValueError, match=r"n_members=4.*6 learners, of which 3 distinct"
    ):
        cluster(p, y, 4)
    assert len(cluster(p, y, 3, random_state=0).indices) == 3


def test_wrong_numbers_of_clusters():
    p, y = pool(4)
    with pytest.raises(ValueError, match=r"n_members=4 clusters. Received: 2 from"):
        cluster(p, y, clusterer=FixedLabels([0, 1] * 4 + [-1]))
    with pytest.raises(ValueError, match="all 9 learners for noise"):
        cluster(p, y, None, clusterer=FixedLabels([-1] * 9))
    with pytest.raises(ValueError, match=r"from 1 to 9.*n_members=10"):
        cluster(p, y, 10)
    with pytest.raises(ValueError, match="no clusterer"):
        cluster(p, y, None)


def test_bad_arguments():
    p, y = pool(5)
    with pytest.raises(ValueError, match="'accuracy', 'best_cluster', 'centroid'"):
        cluster(p, y, representative="best")
    for clusterer in (KMeans, LinearRegression(), "kmeans"):
        with pytest.raises(TypeError, match="instance of a scikit-learn clusterer"):
            cluster(p, y, clusterer=clusterer)
    with pytest.raises(ValueError, match="from_logits"):
        cluster(5 * p, y)
    with pytest.raises(ValueError, match="labels of shape"):
        cluster(p, y[:-1])
