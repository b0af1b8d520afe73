"""`Clusterer`: a scikit-learn clusterer, or a default one, with the learners."""

import warnings
from functools import cache
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import ThreadpoolController

from keras_micronets.selection.clustering.geometry import Distances, Points

__all__ = ["Clusterer", "with_n_clusters"]


class Clusterer:
    """Cluster learners with a scikit-learn clusterer or a default one.

    Args:
        estimator: A scikit-learn clusterer, or `None`.
        geometry: The distances of the learners.
        n_distinct: Integer, the number of learners.
        random_state: As in scikit-learn, where the clusterer has `None`.

    Raises:
        TypeError: If `estimator` is not a scikit-learn clusterer.
    """

    def __init__(
        self,
        estimator: Any,
        geometry: Points | Distances,
        n_distinct: int,
        random_state: Any,
    ):
        if isinstance(estimator, type) or not hasattr(
            estimator or KMeans, "fit_predict"
        ):
            raise TypeError(
                "Expected an instance of a scikit-learn clusterer, with fit_predict. "
                f"Received: clusterer={estimator!r}."
            )
        self.estimator, self.geometry = estimator, geometry
        self.n_distinct, self.random_state = n_distinct, random_state

    @property
    def name(self) -> str:
        return type(self.estimator or self._default(1)).__name__

    def with_n_clusters(self, n_clusters: int) -> "Clusterer":
        """Return the same with another number of clusters."""
        estimator = with_n_clusters(self.estimator, n_clusters)
        return Clusterer(estimator, self.geometry, self.n_distinct, self.random_state)

    def cluster(self, n_clusters: int | None) -> np.ndarray:
        """Return the cluster of each learner.

        Args:
            n_clusters: Integer, the required number of clusters; `None` for any.

        Raises:
            ValueError: If another number results, or none.
        """
        if self.estimator is None:
            return self._by_default(self._check_default(n_clusters))
        clusterer = self._seeded()
        labels = np.asarray(clusterer.fit_predict(self.geometry.input_of(clusterer)))
        _check_result(labels, n_clusters, clusterer)
        return labels

    def cluster_at_most(self, n_clusters: int) -> np.ndarray:
        """Return the cluster of each learner, in fewer clusters where learners are few.

        Args:
            n_clusters: Integer, the largest number without an estimator of the user.
        """
        if self.estimator is not None:
            return self.cluster(None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # as permitted
            return self._by_default(min(n_clusters, self.n_distinct), exact=False)

    def _default(self, n_clusters: int) -> Any:
        if isinstance(self.geometry, Distances):
            return AgglomerativeClustering(
                n_clusters, metric="precomputed", linkage="average"
            )
        return KMeans(n_clusters, n_init=10, random_state=self.random_state)

    def _by_default(self, n_clusters: int, *, exact: bool = True) -> np.ndarray:
        if n_clusters == 1:  # scikit-learn rejects a single learner
            return np.zeros(self.n_distinct, int)
        clusterer = self._default(n_clusters)
        if isinstance(self.geometry, Distances):
            return clusterer.fit_predict(self.geometry.matrix)
        # On a busy machine the threads of k-means wait for each other far longer than
        # a single one takes.
        with _threads().limit(limits=1):
            labels = clusterer.fit_predict(self.geometry.rotated())
        if exact:  # fewer points may be distinct
            _check_result(labels, n_clusters, clusterer)
        return labels

    def _check_default(self, n_clusters: int | None) -> int:
        if n_clusters is None:
            raise ValueError(
                "Expected n_members, the number of clusters. Received: "
                "n_members=None and no clusterer. Give one of the two."
            )
        if self.n_distinct < n_clusters:
            raise ValueError(
                f"Expected at least n_members={n_clusters} learners that predict "
                f"differently. Received: {self.n_distinct} of them. Lower n_members, "
                "or add other learners."
            )
        return n_clusters

    def _seeded(self) -> Any:
        clusterer = clone(self.estimator, safe=False)
        seeds = {
            name: self.random_state
            for name, value in _params(clusterer).items()
            if name.split("__")[-1] == "random_state" and value is None
        }
        return clusterer.set_params(**seeds) if seeds else clusterer


@cache
def _threads() -> ThreadpoolController:
    return ThreadpoolController()


def with_n_clusters(clusterer: Any, n_clusters: int) -> Any:
    """Return a clone of a clusterer with a number of clusters; `None` for `None`.

    Raises:
        ValueError: If the clusterer has no such parameter.
    """
    if clusterer is None:
        return None
    for name in _params(clusterer):
        if name.split("__")[-1] in ("n_clusters", "n_components"):
            return clone(clusterer, safe=False).set_params(**{name: n_clusters})
    raise ValueError(
        "Expected a clusterer with a parameter for the number of clusters. "
        f"Received: {clusterer!r}. Pass n_members=None."
    )


def _params(clusterer: Any) -> dict[str, Any]:
    return clusterer.get_params() if hasattr(clusterer, "get_params") else {}


def _check_result(labels: np.ndarray, n_clusters: int | None, clusterer: Any) -> None:
    n_found = len(np.unique(labels[labels >= 0]))
    if n_found == 0:
        raise ValueError(
            f"Expected clusters. Received: none from {clusterer!r}, which labelled all "
            f"{len(labels)} learners as noise. Loosen its parameters."
        )
    if n_clusters not in (None, n_found):
        raise ValueError(
            f"Expected n_members={n_clusters} clusters. Received: {n_found} from "
            f"{clusterer!r}. Pass n_members=None or n_members={n_found}, or change "
            "the clusterer."
        )
