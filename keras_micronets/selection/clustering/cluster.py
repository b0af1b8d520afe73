"""Select representatives of clusters of learners that predict alike."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from keras_micronets.selection.candidates import Candidates
from keras_micronets.selection.clustering.clusterer import Clusterer, with_n_clusters
from keras_micronets.selection.clustering.geometry import (
    Distances,
    Points,
    as_distances,
    as_points,
    check_geometry,
)
from keras_micronets.selection.cross_validation import held_out_losses
from keras_micronets.selection.selection import Selection
from keras_micronets.selection.validation import check_choice

__all__ = ["Clustering", "cluster", "cluster_labels", "find_clusters"]

_STRATEGIES = {"diversity_first": "accuracy", "accuracy_first": "best_cluster"}


def cluster(
    probabilities: Any,
    y: Any,
    n_members: int | str | None = 4,
    *,
    on: str = "probabilities",
    distances: Any = None,
    clusterer: Any = None,
    representative: str = "accuracy",
    max_members: int = 10,
    random_state: Any = None,
) -> Selection:
    """Cluster learners by their predictions and keep representatives.

    Learners with exactly the same predictions are clustered as one, and only one of
    them can be kept. Pools too large for exact distances are projected at random.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`.
        y: Labels, sparse or one-hot; see `as_labels`.
        n_members: Integer, the number of clusters. `"silhouette"` for the number with
            the largest mean silhouette, `"loss"` for the number whose representatives
            have the lowest negative log-likelihood in 5-fold cross-validation over
            samples; both try up to `max_members`. `None` for a `clusterer` that
            determines the number itself. Defaults to `4`.
        on: The features of the learners, compared by Euclidean distance. Defaults to
            `"probabilities"`.
            `"probabilities"`: all predicted probabilities.
            `"log_probabilities"`: their logarithms, those below `1e-3` as `1e-3`.
            `"predictions"`: the predicted classes, one-hot.
            `"correctness"`: whether the predictions are right.
        distances: Instead of `on`, `"disagreement"` (the share of samples on which two
            learners predict different classes), `"double_fault"` (one minus the share
            that both get wrong: Giacinto & Roli 2001), or an array of shape `(learners,
            learners)`. Defaults to `None`.
        clusterer: A scikit-learn clusterer (`sklearn.base.ClusterMixin`, a pipeline
            that ends in one, a mixture model), for `distances` one with
            `metric="precomputed"` or `affinity="precomputed"`. It is cloned, never
            fitted itself. Learners labelled `-1`, noise, are in no cluster and never
            kept. Defaults to `None`: `KMeans(n_init=10)`, or
            `AgglomerativeClustering(linkage="average")` with `distances`.
        representative: The learners to keep. Defaults to `"accuracy"`.
            `"accuracy"`: the most accurate learner of each cluster; ties go to the
            lower negative log-likelihood. Prune2Edge's "diversity first", as far as
            described in its abstract.
            `"loss"`: the learner with the lowest negative log-likelihood.
            `"medoid"`: the learner with the smallest sum of distances to the others.
            `"farthest"`: the learner with the largest mean distance to the learners of
            other clusters (Giacinto & Roli).
            `"best_cluster"`: all learners of the cluster with the highest mean
            accuracy, so their number is not `n_members`; ties go to the lower mean
            negative log-likelihood. Prune2Edge's "accuracy first", as in the code of
            its authors' later FedNets (the paper's own is not public).
        max_members: Integer, the largest number to try. Defaults to `10`.
        random_state: Integer, `numpy.random.RandomState` or `None`, for every
            `random_state` of the clusterer that is `None`. Defaults to `None`.

    Returns:
        A `Selection` with equal weights.

    Raises:
        TypeError: If `clusterer` is not a scikit-learn clusterer.
        ValueError: If there are fewer learners, distinct learners or clusters than
            `n_members`, no clusters, an unknown argument, or invalid data.

    Example:

    ```python
    from sklearn.cluster import AffinityPropagation

    cluster(probabilities, y, n_members=4, random_state=0).indices
    cluster(probabilities, y, n_members="silhouette", distances="disagreement").indices
    cluster(probabilities, y, None, clusterer=AffinityPropagation()).indices
    ```

    References: Lazarevic & Obradovic, "Effective Pruning of Neural Network Classifier
    Ensembles", IJCNN 2001. Giacinto & Roli, "Design of Effective Neural Network
    Ensembles for Image Classification Purposes", Image and Vision Computing 2001.
    Alhalabi et al., "Prune2Edge", arXiv:2004.04710. Rousseeuw, "Silhouettes", 1987.
    """
    return find_clusters(
        probabilities,
        y,
        n_members,
        on=on,
        distances=distances,
        clusterer=clusterer,
        representative=representative,
        max_members=max_members,
        random_state=random_state,
    ).keep_representatives()


@dataclass(frozen=True)
class Clustering:
    """Clusters of candidates; those that predict exactly the same are one.

    Args:
        candidates: The `Candidates`.
        distinct: Integer array: the candidates that were clustered.
        labels: Integer array of shape `(distinct,)`: their clusters, -1 for noise.
        geometry: Their distances.
        name: String, the name of the clusterer.
        representative: String; see `cluster`.
    """

    candidates: Candidates
    distinct: np.ndarray
    labels: np.ndarray
    geometry: Points | Distances
    name: str
    representative: str

    @property
    def labels_of_all(self) -> np.ndarray:
        """The cluster of each candidate, copies included."""
        return self.labels[np.cumsum(~self.candidates.is_copy) - 1]

    @property
    def members(self) -> list[np.ndarray]:
        """The candidates of each cluster."""
        labels = self.labels
        return [self.distinct[labels == k] for k in np.unique(labels[labels >= 0])]

    def representatives(self, accuracies: np.ndarray, losses: np.ndarray) -> np.ndarray:
        """Return the representatives of the clusters, as indices of candidates.

        Args:
            accuracies, losses: Float arrays of shape `(candidates,)`.
        """
        clusters = Clusters(
            [np.searchsorted(self.distinct, members) for members in self.members],
            accuracies[self.distinct],
            losses[self.distinct],
            self.geometry,
        )
        return self.distinct[REPRESENTATIVES[self.representative](clusters)]

    def keep_representatives(self) -> Selection:
        """Return the selection of the representatives."""
        candidates = self.candidates
        return candidates.select(
            self.representatives(candidates.accuracies, candidates.losses),
            labels=self.labels_of_all,
            method=self.name,
            representative=self.representative,
        )


def find_clusters(
    probabilities: Any,
    y: Any,
    n_members: int | str | None,
    *,
    on: str = "probabilities",
    distances: Any = None,
    clusterer: Any = None,
    representative: str = "accuracy",
    max_members: int = 10,
    random_state: Any = None,
    at_most: bool = False,
) -> Clustering:
    """Cluster the learners, as `cluster` does.

    Args:
        probabilities, y, n_members: See `cluster`.
        on, distances, clusterer, representative, max_members, random_state: Likewise.
        at_most: Boolean. Whether fewer than `n_members` clusters are accepted.
    """
    count = 1 if n_members is None or isinstance(n_members, str) else n_members
    candidates = Candidates(probabilities, y, count)
    check_geometry(on, distances, len(candidates))
    check_choice("representative", representative, REPRESENTATIVES)
    if isinstance(n_members, str):
        check_choice("n_members", n_members, ("silhouette", "loss"))
    if n_members == "loss":
        n_members = _number_by_loss(
            probabilities,
            y,
            max_members,
            clusterer,
            on=on,
            distances=distances,
            representative=representative,
            random_state=random_state,
        )
        clusterer = with_n_clusters(clusterer, n_members)
    distinct = np.flatnonzero(~candidates.is_copy)
    if distances is None:
        geometry = as_points(candidates, distinct, on, random_state)
    else:
        geometry = as_distances(candidates, distinct, distances)
    chosen = Clusterer(clusterer, geometry, len(distinct), random_state)
    if isinstance(n_members, str):  # "silhouette"
        labels = _by_silhouette(chosen, max_members)
    elif at_most and n_members is not None:
        labels = chosen.cluster_at_most(n_members)
    else:
        labels = chosen.cluster(n_members)
    return Clustering(
        candidates, distinct, labels, geometry, chosen.name, representative
    )


def cluster_labels(
    probabilities: Any,
    y: Any,
    n_members: int = 4,
    *,
    strategy: str = "diversity_first",
    random_state: Any = None,
) -> Selection:
    """Cluster learners by the numbers of their predicted classes (baseline).

    This reproduces the code of the authors of Prune2Edge: k-means in Euclidean distance
    on class labels, as if class 9 were farther from class 1 than from class 8.
    `cluster(on="predictions")` compares the same predictions one-hot.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`.
        y: Labels, sparse or one-hot; see `as_labels`.
        n_members: Integer, the number of clusters. Defaults to `4`.
        strategy: `"diversity_first"`, the most accurate learner of each cluster, or
            `"accuracy_first"`, all learners of the cluster with the highest mean
            accuracy. Defaults to `"diversity_first"`.
        random_state: As in scikit-learn, for k-means. Defaults to `None`.

    Returns:
        A `Selection` with equal weights. Where fewer than `n_members` learners predict
        different classes, there are fewer clusters.

    Raises:
        ValueError: If there are fewer learners than members, `strategy` is unknown, or
            the data is invalid.

    Example:

    ```python
    cluster_labels(probabilities, y, n_members=4, random_state=0).indices
    ```

    References: Alhalabi et al., "Prune2Edge", arXiv:2004.04710, and the code of its
    authors' FedNets. That code never considers the last cluster for
    `"accuracy_first"`; this function does.
    """
    check_choice("strategy", strategy, _STRATEGIES)
    candidates = Candidates(probabilities, y, n_members)
    labels_of_learners = candidates.predictions.astype(np.float64)
    geometry = Points(labels_of_learners)
    n_clusters = min(n_members, len(np.unique(labels_of_learners, axis=0)))
    labels = Clusterer(None, geometry, n_clusters, random_state).cluster(n_clusters)
    clusters = Clusters(
        [np.flatnonzero(labels == k) for k in range(n_clusters)],
        candidates.accuracies,
        candidates.losses,
        geometry,
    )
    representative = _STRATEGIES[strategy]
    return candidates.select(
        REPRESENTATIVES[representative](clusters),
        labels=labels,
        method="prune2edge",
        representative=representative,
    )


@dataclass(frozen=True)
class Clusters:
    """Clusters of learners.

    Args:
        members: List of integer arrays: the learners of each cluster.
        accuracies: Float array of shape `(learners,)`.
        losses: Float array of shape `(learners,)`.
        geometry: The distances of the learners.
    """

    members: list[np.ndarray]
    accuracies: np.ndarray
    losses: np.ndarray
    geometry: Points | Distances


def _most_accurate(clusters: Clusters) -> list[int]:
    order = np.lexsort((clusters.losses, -clusters.accuracies))
    ranks = np.argsort(order)
    return [members[ranks[members].argmin()] for members in clusters.members]


def _lowest_loss(clusters: Clusters) -> list[int]:
    return [members[clusters.losses[members].argmin()] for members in clusters.members]


def _medoid(clusters: Clusters) -> list[int]:
    between = clusters.geometry.between
    return [
        members[_first_lowest(between(members, members).sum(axis=1))]
        for members in clusters.members
    ]


def _farthest(clusters: Clusters) -> list[int]:
    if len(clusters.members) == 1:
        return _most_accurate(clusters)
    everyone = np.concatenate(clusters.members)
    kept = []
    for members in clusters.members:
        others = np.setdiff1d(everyone, members)
        distances = clusters.geometry.between(members, others).mean(axis=1)
        kept.append(members[_first_lowest(-distances)])
    return kept


def _best_cluster(clusters: Clusters) -> np.ndarray:
    accuracies, losses = clusters.accuracies, clusters.losses
    return min(
        clusters.members,
        # Equal means over different numbers of learners may differ by rounding.
        key=lambda c: (-accuracies[c].mean().round(12), losses[c].mean()),
    )


def _first_lowest(values: np.ndarray) -> int:
    # Two learners are always equally far from each other: rounding must not choose.
    return int(np.argmax(values <= values.min() + 1e-6 * np.abs(values).max()))


#: Functions of `Clusters` that return the learners to keep.
REPRESENTATIVES: dict[str, Callable[[Clusters], Any]] = {
    "accuracy": _most_accurate,
    "loss": _lowest_loss,
    "medoid": _medoid,
    "farthest": _farthest,
    "best_cluster": _best_cluster,
}


def _by_silhouette(clusterer: Clusterer, max_members: int) -> np.ndarray:
    # A silhouette needs two clusters, and one with two learners.
    numbers = range(2, min(max_members, clusterer.n_distinct - 1) + 1)
    clusterings = [clusterer.with_n_clusters(k).cluster(k) for k in numbers]
    if not clusterings:
        return clusterer.with_n_clusters(1).cluster(1)
    return max(clusterings, key=clusterer.geometry.silhouette)


def _number_by_loss(
    probabilities: Any, y: Any, max_members: int, clusterer: Any, **options: Any
) -> int:
    numbers = range(1, min(max_members, len(probabilities)) + 1)
    methods = [
        partial(
            cluster, n_members=k, clusterer=with_n_clusters(clusterer, k), **options
        )
        for k in numbers
    ]
    losses = held_out_losses(methods, probabilities, y).mean(axis=1)
    return numbers[int(np.nanargmin(losses))]
