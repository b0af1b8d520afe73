"""Choose by clustering: learners that predict alike stand for one another."""

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.cluster import KMeans

from keras_micronets.selection.candidates import Candidates
from keras_micronets.selection.metrics import accuracy, negative_log_likelihood
from keras_micronets.selection.selection import Selection
from keras_micronets.selection.validation import (
    as_labels,
    check_n_members,
    check_probabilities,
)


def cluster(
    probabilities: Any,
    y: Any,
    n_members: int | None = 4,
    *,
    clusterer: Any = None,
    representative: str = "accuracy",
    random_state: Any = None,
) -> Selection:
    """Cluster learners by the probabilities they predict; keep representatives.

    The features of a learner are all its probabilities, one after the other.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`.
        y: Labels, sparse or one-hot; see `as_labels`.
        n_members: Integer, the number of clusters. With a `clusterer`, `None` or the
            number of clusters that it finds. Defaults to `4`.
        clusterer: A scikit-learn clusterer (`sklearn.base.ClusterMixin`, a pipeline
            that ends in one, a mixture model). It is cloned, never fitted itself.
            Learners that it labels `-1`, noise, are in no cluster and never kept.
            Defaults to `None`: `KMeans(n_members, n_init=10)`.
        representative: What is kept. Defaults to `"accuracy"`.
            `"accuracy"`: the most accurate learner of each cluster; ties go to the
            lower negative log-likelihood, then the lower index. Prune2Edge's
            "diversity first", as far as its abstract tells.
            `"centroid"`: the learner of each cluster that is nearest its mean in
            Euclidean distance; ties go to the lower index.
            `"best_cluster"`: all learners of the cluster whose mean accuracy is
            highest, so their number is not `n_members`; ties go to the lower mean
            negative log-likelihood. Prune2Edge's "accuracy first", as the code of its
            authors' later FedNets has it (the paper's own is not public).
        random_state: Integer, `numpy.random.RandomState` or `None`, for every
            `random_state` of the clusterer that is `None`. Defaults to `None`.

    Returns:
        A `Selection` with equal weights.

    Raises:
        TypeError: If `clusterer` is not a scikit-learn clusterer.
        ValueError: If there are fewer learners, distinct learners or clusters than
            `n_members`, no clusters, an unknown `representative`, or bad data.

    Example:

    ```python
    from sklearn.cluster import AgglomerativeClustering

    cluster(probabilities, y, n_members=4, random_state=0).indices
    cluster(probabilities, y, None, clusterer=AgglomerativeClustering(3)).indices
    ```

    References: Lazarevic & Obradovic, "Effective Pruning of Neural Network Classifier
    Ensembles", IJCNN 2001. Alhalabi et al., "Prune2Edge", arXiv:2004.04710.
    """
    p = check_probabilities(probabilities)
    y = as_labels(y, p.shape[2], p.shape[1])
    if representative not in _REPRESENTATIVES:
        raise ValueError(
            f"Expected representative to be one of {sorted(_REPRESENTATIVES)}. "
            f"Received: representative={representative!r}."
        )
    clusterer, method = _clusterer(clusterer, n_members, random_state, p)
    labels = _labels(clusterer, n_members, p)
    clusters = [np.flatnonzero(labels == k) for k in np.unique(labels[labels >= 0])]
    indices = _REPRESENTATIVES[representative](clusters, p, y)
    return Selection.uniform(
        indices, labels, method=method, representative=representative
    )


def _clusterer(
    clusterer: Any, n_members: int | None, random_state: Any, p: np.ndarray
) -> tuple[Any, str]:
    if clusterer is None:
        return _default_clusterer(n_members, random_state, p), "KMeans"
    if isinstance(clusterer, type) or not hasattr(clusterer, "fit_predict"):
        raise TypeError(
            "Expected an instance of a scikit-learn clusterer, with fit_predict. "
            f"Received: clusterer={clusterer!r}."
        )
    if n_members is not None:
        check_n_members(n_members, len(p))
    own = clone(clusterer, safe=False)
    params = own.get_params() if hasattr(own, "get_params") else {}
    seeds = {k: v for k, v in params.items() if k.split("__")[-1] == "random_state"}
    if any(seed is None for seed in seeds.values()):
        own.set_params(**{k: random_state for k, v in seeds.items() if v is None})
    return own, type(clusterer).__name__


def _default_clusterer(
    n_members: int | None, random_state: Any, p: np.ndarray
) -> KMeans:
    if n_members is None:
        raise ValueError(
            "Expected n_members, the number of clusters of k-means. Received: "
            "n_members=None and no clusterer. Give one of the two."
        )
    n_members = check_n_members(n_members, len(p))
    n_distinct = len({learner.tobytes() for learner in p})
    if n_distinct < n_members:
        raise ValueError(
            f"Expected at least n_members={n_members} learners that predict "
            f"differently. Received: {len(p)} learners, of which {n_distinct} distinct."
            " Lower n_members, or add other learners."
        )
    return KMeans(n_members, n_init=10, random_state=random_state)


def _labels(clusterer: Any, n_members: int | None, p: np.ndarray) -> np.ndarray:
    labels = np.asarray(clusterer.fit_predict(p.reshape(len(p), -1)))
    n_found = len(np.unique(labels[labels >= 0]))
    if n_found == 0:
        raise ValueError(
            f"Expected clusters. Received: none from {clusterer!r}, which took all "
            f"{len(p)} learners for noise. Loosen its parameters."
        )
    if n_members not in (None, n_found):
        raise ValueError(
            f"Expected n_members={n_members} clusters. Received: {n_found} from "
            f"{clusterer!r}. Pass n_members=None or n_members={n_found}, or change "
            "the clusterer."
        )
    return labels


def _most_accurate(
    clusters: list[np.ndarray], p: np.ndarray, y: np.ndarray
) -> np.ndarray:
    ranks = np.argsort(Candidates(p, y).order)
    return np.array([members[ranks[members].argmin()] for members in clusters])


def _nearest_centre(
    clusters: list[np.ndarray], p: np.ndarray, y: np.ndarray
) -> np.ndarray:
    return np.array([_nearest_mean(members, p) for members in clusters])


def _nearest_mean(members: np.ndarray, p: np.ndarray) -> int:
    centre = p[members].mean(axis=0, dtype=np.float64)
    distances = np.array([np.linalg.norm(p[member] - centre) for member in members])
    # Two learners are always equally far from their mean: rounding must not choose.
    return members[np.argmax(distances <= distances.min() * (1 + 1e-9))]


def _best_cluster(
    clusters: list[np.ndarray], p: np.ndarray, y: np.ndarray
) -> np.ndarray:
    accuracies, losses = accuracy(p, y), negative_log_likelihood(p, y)
    # Equal means of unlike numbers of learners may differ by rounding.
    return min(
        clusters, key=lambda c: (-accuracies[c].mean().round(12), losses[c].mean())
    )


_REPRESENTATIVES: dict[str, Callable[..., np.ndarray]] = {
    "accuracy": _most_accurate,
    "centroid": _nearest_centre,
    "best_cluster": _best_cluster,
}
