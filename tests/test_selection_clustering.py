from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selection_cases import check_permuted, check_selection
from selection_cases import pool as tied_pool
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.cluster import (
    DBSCAN,
    HDBSCAN,
    AffinityPropagation,
    AgglomerativeClustering,
    KMeans,
    SpectralClustering,
)
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline

from keras_micronets.selection import cluster, cluster_labels, prediction_distances
from keras_micronets.selection.candidates import Candidates
from keras_micronets.selection.clustering import geometry


class Known(ClusterMixin, BaseEstimator):
    """Gives the learners of a pool the labels of the test."""

    def __init__(self, p=None, labels=()):
        self.p = p
        self.labels = labels

    def fit(self, X, y=None):
        label_of = {
            learner.astype(X.dtype).tobytes(): label
            for learner, label in zip(self.p, self.labels, strict=True)
        }
        self.labels_ = np.array([label_of[row.tobytes()] for row in X])
        return self


def pool(seed, n_learners=9, n_samples=20, n_classes=3):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(n_classes), (n_learners, n_samples))
    return p, rng.integers(0, n_classes, n_samples)


def with_correct(counts, n_samples=10):
    """Learners of two classes that are right on the given numbers of samples.

    The later ones are a little less confident, so that no two are the same.
    """
    p = np.full((len(counts), n_samples, 2), 0.5)
    for i, (learner, count) in enumerate(zip(p, counts, strict=True)):
        learner[:count] = [0.9 - i / 1000, 0.1 + i / 1000]
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
    return sorted(
        min(
            group,
            key=lambda i: _badness(i, group, groups, p, right, loss, representative),
        )
        for group in groups.values()
    )


def _badness(i, group, groups, p, right, loss, representative):
    def far(others):
        return np.mean([np.sqrt(((p[i] - p[j]) ** 2).sum()) for j in others])

    if representative == "accuracy":
        return -right[i], loss[i]
    if representative == "loss":
        return loss[i]
    # Of two that are equally far from each other the more accurate is kept.
    if representative == "medoid":
        return round(far(group), 5), -right[i], loss[i]
    others = [j for g in groups.values() if g is not group for j in g]
    return (-round(far(others), 5) if others else 0), -right[i], loss[i]


@pytest.mark.parametrize(
    "representative", ["accuracy", "loss", "medoid", "farthest", "best_cluster"]
)
@given(st.integers(0, 10**6), st.lists(st.integers(-1, 3), min_size=9, max_size=9))
@settings(max_examples=25, deadline=None)
def test_against_the_definitions(representative, seed, labels):
    labels[0] = 2
    p, y = pool(seed)
    chosen = cluster(
        p, y, None, clusterer=Known(p, labels), representative=representative
    )
    expected = literal_choice(p, y, labels, representative)
    np.testing.assert_array_equal(chosen.indices, expected)
    np.testing.assert_array_equal(chosen.labels, labels)
    np.testing.assert_allclose(chosen.weights, 1 / len(expected))


def test_pypruning_local_index_is_not_the_learner_index():
    # PyPruning's cluster_accuracy keeps the index *within* the cluster, here 1 and 0.
    p, y = with_correct([1, 2, 3, 9, 8, 4])
    chosen = cluster(p, y, 2, clusterer=Known(p, [0, 0, 1, 0, 1, 1]))
    np.testing.assert_array_equal(chosen.indices, [3, 4])


def test_the_last_cluster_counts_when_the_best_is_sought():
    # The authors' acc_first loops over range(0, largest label) and never sees it.
    p, y = with_correct([3, 4, 5, 6, 9, 8])
    chosen = cluster(
        p,
        y,
        None,
        clusterer=Known(p, [0, 0, 1, 1, 2, 2]),
        representative="best_cluster",
    )
    np.testing.assert_array_equal(chosen.indices, [4, 5])


def test_ties_in_accuracy_go_to_the_likelier():
    p, y = with_correct([5, 5, 5, 7, 7])
    p[1, 0] = [1.0, 0.0]
    chosen = cluster(p, y, 2, clusterer=Known(p, [0, 0, 0, 1, 1]))
    np.testing.assert_array_equal(chosen.indices, [1, 3])


METHODS = {
    "k-means": {},
    "logarithms": {"on": "log_probabilities"},
    "predictions": {"on": "predictions"},
    "correctness": {"on": "correctness"},
    "disagreement": {"distances": "disagreement"},
    "double fault": {"distances": "double_fault", "representative": "farthest"},
    "spectral": {"clusterer": SpectralClustering(2)},
    "medoids": {"representative": "medoid"},
}


@pytest.mark.parametrize("options", METHODS.values(), ids=METHODS.keys())
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_order_of_the_pool_does_not_matter(options):
    for seed in range(4):
        p, y = tied_pool(seed, n_learners=9, copies=seed % 2)
        choose = partial(cluster, n_members=2, random_state=0, **options)
        check_permuted(choose, p, y, seed)
        check_selection(choose(p, y), len(p), 2)


@pytest.mark.parametrize("representative", ["accuracy", "medoid", "best_cluster"])
@pytest.mark.parametrize("options", METHODS.values(), ids=METHODS.keys())
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_copies_are_never_kept_both_and_share_their_cluster(options, representative):
    for seed in range(3):
        p, y = tied_pool(seed, n_learners=6, copies=False)
        p = np.concatenate([p, p])
        options = options | {"representative": representative}
        chosen = cluster(p, y, 2, random_state=0, **options)
        assert len({p[i].tobytes() for i in chosen.indices}) == len(chosen.indices)
        np.testing.assert_array_equal(chosen.labels[:6], chosen.labels[6:])


def test_distances_of_learners():
    """Learners 0 and 1 agree, 2 and 3 agree; but 1 and 2 fail on the same samples."""
    right = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 0]], bool)
    p = np.where(right[..., None], [0.9, 0.1], [0.1, 0.9])
    p[1] = np.where(right[1][:, None], [0.8, 0.2], [0.2, 0.8])
    y = [0, 0, 0, 0]
    labels = cluster(p, y, 2, distances="disagreement").labels
    assert labels[0] == labels[1] != labels[2] == labels[3]
    distances = 1 - np.eye(4)
    distances[[0, 2, 1, 3], [2, 0, 3, 1]] = 0.1
    labels = cluster(p, y, 2, distances=distances).labels
    assert labels[0] == labels[2] != labels[1] == labels[3]


def test_distances_against_their_definitions():
    seen = []

    class Spy(Known):
        def __init__(self, p=None, labels=(), metric="precomputed"):
            super().__init__(p, labels)
            self.metric = metric

        def fit(self, X, y=None):
            seen.append(X)
            self.labels_ = np.zeros(len(X), int)
            return self

    p, y = tied_pool(3, copies=False)
    order = Candidates(p, y).order
    for name in ("disagreement", "double_fault"):
        cluster(p, y, 1, distances=name, clusterer=Spy())
    classes = p[order].argmax(axis=2)
    for i, a in enumerate(classes):
        for j, b in enumerate(classes):
            apart = np.mean([s != t for s, t in zip(a, b, strict=True)])
            both = np.mean([s != t != r for s, t, r in zip(a, y, b, strict=True)])
            assert seen[0][i, j] == pytest.approx(apart)
            assert seen[1][i, j] == pytest.approx(0 if i == j else 1 - both)


@pytest.mark.parametrize(
    "clusterer",
    [
        AgglomerativeClustering(2, metric="precomputed", linkage="complete"),
        SpectralClustering(2, affinity="precomputed"),
        AffinityPropagation(affinity="precomputed", random_state=0),
        HDBSCAN(metric="precomputed", min_cluster_size=2, copy=True),
    ],
)
def test_clusterers_of_distances(clusterer):
    truth = np.repeat([0, 1], 5)
    random = np.random.default_rng(0)
    distances = np.abs(truth[:, None] - truth) + random.uniform(0.1, 0.2, (10, 10))
    distances = np.triu(distances, 1) + np.triu(distances, 1).T
    p, y = pool(0, n_learners=10)
    labels = cluster(p, y, None, clusterer=clusterer, distances=distances).labels
    assert len(set(zip(truth, labels, strict=True))) == 2


def test_a_silhouette_finds_the_number_of_groups():
    p, y, truth = groups(5)
    for options in ({}, {"distances": prediction_distances(p)}):
        chosen = cluster(p, y, "silhouette", random_state=0, **options)
        assert len(set(zip(truth, chosen.labels, strict=True))) == 5
    counted = cluster(p, y, "silhouette", clusterer=AgglomerativeClustering())
    np.testing.assert_array_equal(counted.indices, chosen.indices)


def test_a_silhouette_of_two_learners():
    p, y = pool(0, n_learners=2)
    assert len(cluster(p, y, "silhouette").indices) == 1


def test_the_held_out_loss_finds_the_number_of_members():
    """Three learners know a third of the classes each; the others know nothing."""
    random = np.random.default_rng(0)
    y = np.arange(300) % 3
    p = random.dirichlet(np.full(3, 50), (9, 300))
    for learner in range(3):
        p[learner, y == learner] = 0.98 * np.eye(3)[learner] + 0.02 / 3
    chosen = cluster(p, y, "loss", max_members=4, random_state=0)
    assert {0, 1, 2} <= set(chosen.indices)
    again = cluster(
        p, y, "loss", clusterer=KMeans(n_init=10), max_members=4, random_state=0
    )
    np.testing.assert_array_equal(again.indices, chosen.indices)


def test_large_pools_are_projected(monkeypatch):
    p, y, truth = groups(6, n_samples=40)
    exact = cluster(p, y, 6, random_state=0)
    monkeypatch.setattr(geometry, "MAX_NUMBERS", 3000)
    monkeypatch.setattr(geometry, "N_PROJECTED", 24)
    near = cluster(p.astype("float16"), y, 6, random_state=0)
    assert len(set(zip(truth, near.labels, strict=True))) == 6
    np.testing.assert_array_equal(near.indices, exact.indices)


def test_classes_that_nobody_predicts_change_no_distance():
    p, y = tied_pool(0, n_classes=30)
    candidates = Candidates(p, y)
    points = geometry.as_points(candidates, np.arange(len(p)), "predictions", 0)
    one_hot = np.eye(30)[candidates.predictions].reshape(len(p), -1)
    assert points.points.shape[1] < one_hot.shape[1]
    np.testing.assert_allclose(
        points.points @ points.points.T, one_hot @ one_hot.T, rtol=1e-6
    )


def test_large_features_of_few_learners_keep_their_distances(monkeypatch):
    p, y, _ = groups(6, n_samples=40)
    indices = np.arange(len(p))
    exact = geometry.as_points(Candidates(p, y), indices, "probabilities", 0)
    monkeypatch.setattr(geometry, "MAX_NUMBERS", 3000)
    rotated = geometry.as_points(Candidates(p, y), indices, "probabilities", 0)
    assert rotated.points.shape == (len(p), len(p))
    np.testing.assert_allclose(
        rotated.between(indices, indices), exact.between(indices, indices), atol=1e-6
    )


def test_points_are_rotated_a_block_at_a_time(monkeypatch):
    monkeypatch.setattr(geometry, "_BLOCK", 64)
    points = np.random.default_rng(0).normal(size=(3, 200))
    rotated = geometry.Points(points).rotated()
    assert rotated.shape == (3, 3)
    np.testing.assert_allclose(rotated @ rotated.T, points @ points.T)


def groups(n_groups, n_samples=12):
    """Five learners of each group, each group with different predictions."""
    random = np.random.default_rng(0)
    truth = np.repeat(range(n_groups), 5)
    centres = random.dirichlet(np.ones(4), (n_groups, n_samples))
    p = centres[truth] + random.uniform(0, 0.05, (len(truth), n_samples, 4))
    return p / p.sum(-1, keepdims=True), random.integers(0, 4, n_samples), truth


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

    class Spy(Known):
        def fit(self, X, y=None):
            seen.append(X)
            return super().fit(X)

    p, y = pool(0)
    cluster(p, y, 1, clusterer=Spy(p, [0] * 9))
    np.testing.assert_array_equal(seen[0], p[Candidates(p, y).order].reshape(9, 60))


@pytest.mark.parametrize(
    "clusterer",
    [
        KMeans(3, n_init=2),
        AgglomerativeClustering(3, metric="cosine", linkage="average"),
        SpectralClustering(3),
        make_pipeline(PCA(3), KMeans(3, n_init=2)),
    ],
)
def test_any_clusterer_works_and_is_not_changed(clusterer):
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

    class Seeded(Known):
        def __init__(self, p=None, labels=(), random_state=None):
            super().__init__(p, labels)
            self.random_state = random_state

        def fit(self, X, y=None):
            seen.append(self.random_state)
            return super().fit(X)

    p, y = pool(2)
    for seed in (None, 7):
        cluster(p, y, 1, clusterer=Seeded(p, [0] * 9, seed), random_state=3)
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
    with pytest.raises(ValueError, match=r"n_members=4.*Received: 3 of them"):
        cluster(p, y, 4)
    assert len(cluster(p, y, 3, random_state=0).indices) == 3


def test_wrong_numbers_of_clusters():
    p, y = pool(4)
    with pytest.raises(ValueError, match=r"n_members=4 clusters. Received: 2 from"):
        cluster(p, y, clusterer=Known(p, [0, 1] * 4 + [-1]))
    with pytest.raises(ValueError, match="all 9 learners as noise"):
        cluster(p, y, None, clusterer=Known(p, [-1] * 9))
    with pytest.raises(ValueError, match=r"from 1 to 9.*n_members=10"):
        cluster(p, y, 10)
    with pytest.raises(ValueError, match="no clusterer"):
        cluster(p, y, None)


def test_bad_arguments():
    p, y = pool(5)
    with pytest.raises(
        ValueError, match="'accuracy', 'loss', 'medoid', 'farthest', 'best_cluster'"
    ):
        cluster(p, y, representative="best")
    for clusterer in (KMeans, LinearRegression(), "kmeans"):
        with pytest.raises(TypeError, match="instance of a scikit-learn clusterer"):
            cluster(p, y, clusterer=clusterer)
    with pytest.raises(ValueError, match="'silhouette', 'loss'"):
        cluster(p, y, "elbow")
    with pytest.raises(ValueError, match="parameter for the number"):
        cluster(p, y, "silhouette", clusterer=HDBSCAN(copy=True))
    with pytest.raises(ValueError, match="'log_probabilities'"):
        cluster(p, y, on="logits")
    with pytest.raises(ValueError, match="'double_fault'"):
        cluster(p, y, distances="cosine")
    with pytest.raises(ValueError, match=r"shape \(9, 9\)"):
        cluster(p, y, distances=np.zeros((8, 8)))
    with pytest.raises(ValueError, match="symmetric"):
        cluster(p, y, distances=np.ones((9, 9)))
    with pytest.raises(ValueError, match="metric='precomputed'"):
        cluster(p, y, distances="disagreement", clusterer=KMeans(4))
    with pytest.raises(ValueError, match="distances=None"):
        cluster(p, y, clusterer=SpectralClustering(4, affinity="precomputed"))
    with pytest.raises(ValueError, match="from_logits"):
        cluster(5 * p, y)
    with pytest.raises(ValueError, match="labels of shape"):
        cluster(p, y[:-1])


def test_published_clusters_use_labels_as_numbers():
    """Classes 0 and 1 are near, 3 is far: so the code of Prune2Edge groups them."""
    classes = np.array([[0, 0, 0], [0, 0, 1], [1, 1, 1], [3, 3, 3], [3, 3, 2]])
    p = np.eye(4)[classes] * 0.9 + 0.025
    chosen = cluster_labels(p, [0, 0, 0], 2, random_state=0)
    groups = [set(np.flatnonzero(chosen.labels == k)) for k in (0, 1)]
    assert {0, 1, 2} in groups
    assert {3, 4} in groups
    assert chosen.indices[0] == 0
    assert chosen.indices[1] in (3, 4)
    first = cluster_labels(p, [0, 0, 0], 2, strategy="accuracy_first", random_state=0)
    np.testing.assert_array_equal(first.indices, [0, 1, 2])
    assert len(cluster_labels(p[[0, 0, 0]], [0, 0, 0], 2).indices) == 1
    with pytest.raises(ValueError, match="'accuracy_first'"):
        cluster_labels(p, [0, 0, 0], 2, strategy="best")
