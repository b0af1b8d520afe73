"""Choose by clustering: learners that predict alike stand for one another."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from keras_micronets.selection.candidates import Candidates
from keras_micronets.selection.clustering.clusterers import Clusterers, told
from keras_micronets.selection.clustering.geometry import (
    Distances,
    Features,
    as_distances,
    check_notion,
    features,
)
from keras_micronets.selection.cross_validation import held_out_losses
from keras_micronets.selection.selection import Selection

_COUNTED = ("silhouette", "loss")


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
    """Cluster learners by what they predict; keep representatives.

    Learners that predict exactly the same are clustered as one, and only one of them
    can be kept. Pools too large for exact distances are projected; see
    `clustering.comparison.features`.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`.
        y: Labels, sparse or one-hot; see `as_labels`.
        n_members: Integer, the number of clusters. `"silhouette"` for the number whose
            clusters have the largest mean silhouette, `"loss"` for the number whose
            representatives together have the lowest negative log-likelihood in 5-fold
            cross-validation over samples; both try up to `max_members`. With a
            `clusterer` that counts by itself, `None`. Defaults to `4`.
        on: What learners are compared by, in Euclidean distance. Defaults to
            `"probabilities"`.
            `"probabilities"`: all that they predict, one after the other.
            `"log_probabilities"`: their logarithms, those below `1e-3` as `1e-3`.
            `"predictions"`: the classes that they predict, one-hot.
            `"correctness"`: whether they are right.
        distances: Instead of `on`, `"disagreement"` (the share of samples on which two
            predict different classes), `"double_fault"` (one less the share that both
            get wrong: Giacinto & Roli 2001), or an array of shape `(learners,
            learners)`. Defaults to `None`.
        clusterer: A scikit-learn clusterer (`sklearn.base.ClusterMixin`, a pipeline
            that ends in one, a mixture model), for `distances` one with
            `metric="precomputed"` or `affinity="precomputed"`. It is cloned, never
            fitted itself. Learners that it labels `-1`, noise, are in no cluster and
            never kept. Defaults to `None`: `KMeans(n_init=10)`, or
            `AgglomerativeClustering(linkage="average")` with `distances`.
        representative: What is kept. Defaults to `"accuracy"`.
            `"accuracy"`: the most accurate learner of each cluster; ties go to the
            lower negative log-likelihood. Prune2Edge's "diversity first", as far as
            its abstract tells.
            `"loss"`: that of the lowest negative log-likelihood.
            `"medoid"`: that with the least sum of distances to the others.
            `"farthest"`: that with the largest mean distance to the learners of other
            clusters (Giacinto & Roli).
            `"best_cluster"`: all learners of the cluster whose mean accuracy is
            highest, so their number is not `n_members`; ties go to the lower mean
            negative log-likelihood. Prune2Edge's "accuracy first", as the code of its
            authors' later FedNets has it (the paper's own is not public).
        max_members: Integer. The largest number to try. Defaults to `10`.
        random_state: Integer, `numpy.random.RandomState` or `None`, for every
            `random_state` of the clusterer that is `None`. Defaults to `None`.

    Returns:
        A `Selection` with equal weights.

    Raises:
        TypeError: If `clusterer` is not a scikit-learn clusterer.
        ValueError: If there are fewer learners, distinct learners or clusters than
            `n_members`, no clusters, an unknown argument, or bad data.

    Example:

    ```python
    from sklearn.cluster import HDBSCAN

    cluster(probabilities, y, n_members=4, random_state=0).indices
    cluster(probabilities, y, n_members="silhouette", distances="disagreement").indices
    cluster(probabilities, y, None, clusterer=HDBSCAN(copy=True)).indices
    ```

    References: Lazarevic & Obradovic, "Effective Pruning of Neural Network Classifier
    Ensembles", IJCNN 2001. Giacinto & Roli, "Design of Effective Neural Network
    Ensembles for Image Classification Purposes", Image and Vision Computing 2001.
    Alhalabi et al., "Prune2Edge", arXiv:2004.04710. Rousseeuw, "Silhouettes", 1987.
    """
    count = 1 if n_members is None or isinstance(n_members, str) else n_members
    found = Candidates(probabilities, y, count)
    check_notion(on, distances, len(found))
    _check_names(representative, n_members)
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
        clusterer = told(clusterer, n_members)
    distinct = np.flatnonzero(~found.is_copy)
    if distances is None:
        geometry = features(found, distinct, on, random_state)
    else:
        geometry = as_distances(found, distinct, distances)
    given = Clusterers(clusterer, geometry, len(distinct), random_state)
    if n_members == "silhouette":
        labels = _by_silhouette(given, max_members)
    else:
        labels = given.cluster(n_members)
    clustered = Clustered(
        [np.flatnonzero(labels == k) for k in np.unique(labels[labels >= 0])],
        found.accuracies[distinct],
        found.losses[distinct],
        geometry,
    )
    return found.select(
        distinct[REPRESENTATIVES[representative](clustered)],
        labels=labels[np.cumsum(~found.is_copy) - 1],
        method=given.name,
        representative=representative,
    )


def _by_silhouette(given: Clusterers, max_members: int) -> np.ndarray:
    # A silhouette needs two clusters, and one with two learners.
    numbers = range(2, min(max_members, given.n_distinct - 1) + 1)
    tried = [given.told(k).cluster(k) for k in numbers]
    return (
        max(tried, key=given.geometry.silhouette) if tried else given.told(1).cluster(1)
    )


def _number_by_loss(
    probabilities: Any, y: Any, max_members: int, clusterer: Any, **options: Any
) -> int:
    numbers = range(1, min(max_members, len(probabilities)) + 1)
    methods = [
        partial(cluster, n_members=k, clusterer=told(clusterer, k), **options)
        for k in numbers
    ]
    losses = held_out_losses(methods, probabilities, y).mean(axis=1)
    return numbers[int(np.nanargmin(losses))]


def _check_names(representative: str, n_members: Any) -> None:
    if representative not in REPRESENTATIVES:
        raise ValueError(
            f"Expected representative to be one of {sorted(REPRESENTATIVES)}. "
            f"Received: representative={representative!r}."
        )
    if isinstance(n_members, str) and n_members not in _COUNTED:
        raise ValueError(
            f"Expected n_members to be an integer, None, or one of {_COUNTED}. "
            f"Received: n_members={n_members!r}."
        )


def cluster_labels(
    probabilities: Any,
    y: Any,
    n_members: int = 4,
    *,
    strategy: str = "diversity_first",
    random_state: Any = None,
) -> Selection:
    """Cluster learners by the numbers of the classes that they predict.

    As the code of the authors of Prune2Edge does it: k-means in Euclidean distance on
    class labels, as if class 9 were farther from class 1 than from class 8. It is here
    for reproduction; `cluster(on="predictions")` compares the same predictions without
    taking names for numbers.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`.
        y: Labels, sparse or one-hot; see `as_labels`.
        n_members: Integer, the number of clusters. Defaults to `4`.
        strategy: `"diversity_first"`, the most accurate learner of each cluster, or
            `"accuracy_first"`, all learners of the cluster whose mean accuracy is
            highest. Defaults to `"diversity_first"`.
        random_state: As in scikit-learn, for k-means. Defaults to `None`.

    Returns:
        A `Selection` with equal weights. Where fewer learners predict different
        classes than `n_members`, there are fewer clusters.

    Raises:
        ValueError: If there are fewer learners than members, `strategy` is unknown, or
            data is bad.

    Example:

    ```python
    cluster_labels(probabilities, y, n_members=4, random_state=0).indices
    ```

    References: Alhalabi et al., "Prune2Edge", arXiv:2004.04710, and the code of its
    authors' FedNets. There the last cluster is never considered for
    `"accuracy_first"`; here it is.
    """
    if strategy not in _STRATEGIES:
        raise ValueError(
            f"Expected strategy to be one of {[*_STRATEGIES]}. Received: {strategy=}."
        )
    found = Candidates(probabilities, y, n_members)
    points = found.predictions.astype(np.float64)
    geometry = Features(points)
    n_clusters = min(n_members, len(np.unique(points, axis=0)))
    kmeans = Clusterers(None, geometry, n_clusters, random_state)
    labels = kmeans.cluster(n_clusters)
    clustered = Clustered(
        [np.flatnonzero(labels == k) for k in range(n_clusters)],
        found.accuracies,
        found.losses,
        geometry,
    )
    representative = _STRATEGIES[strategy]
    return found.select(
        REPRESENTATIVES[representative](clustered),
        labels=labels,
        method="prune2edge",
        representative=representative,
    )


_STRATEGIES = {"diversity_first": "accuracy", "accuracy_first": "best_cluster"}


@dataclass(frozen=True)
class Clustered:
    """Learners in clusters.

    Args:
        clusters: List of integer arrays: the learners of each cluster.
        accuracies: Float array of shape `(learners,)`, falling.
        losses: Float array of shape `(learners,)`.
        geometry: Their distances.
    """

    clusters: list[np.ndarray]
    accuracies: np.ndarray
    losses: np.ndarray
    geometry: Features | Distances


def most_accurate(found: Clustered) -> list[int]:
    """Keep the most accurate learner of each cluster."""
    return [members.min() for members in found.clusters]


def lowest_loss(found: Clustered) -> list[int]:
    """Keep the learner of the lowest loss of each cluster."""
    return [members[found.losses[members].argmin()] for members in found.clusters]


def medoid(found: Clustered) -> list[int]:
    """Keep the learner of each cluster that is nearest to the others."""
    return [
        members[_first_least(found.geometry.between(members, members).sum(axis=1))]
        for members in found.clusters
    ]


def farthest(found: Clustered) -> list[int]:
    """Keep the learner of each cluster that is farthest from other clusters."""
    if len(found.clusters) == 1:
        return most_accurate(found)
    everyone = np.concatenate(found.clusters)
    return [_farthest(members, everyone, found.geometry) for members in found.clusters]


def best_cluster(found: Clustered) -> np.ndarray:
    """Keep all learners of the cluster that is most accurate on average."""
    accuracies, losses = found.accuracies, found.losses
    return min(
        found.clusters,
        # Equal means of unlike numbers of learners may differ by rounding.
        key=lambda c: (-accuracies[c].mean().round(12), losses[c].mean()),
    )


def _farthest(
    members: np.ndarray, everyone: np.ndarray, geometry: Features | Distances
) -> int:
    apart = geometry.between(members, np.setdiff1d(everyone, members)).mean(axis=1)
    return members[_first_least(-apart)]


def _first_least(values: np.ndarray) -> int:
    # Two learners are always equally far from each other: rounding must not choose.
    return int(np.argmax(values <= values.min() + 1e-6 * np.abs(values).max()))


REPRESENTATIVES: dict[str, Callable] = {
    "accuracy": most_accurate,
    "loss": lowest_loss,
    "medoid": medoid,
    "farthest": farthest,
    "best_cluster": best_cluster,
}
