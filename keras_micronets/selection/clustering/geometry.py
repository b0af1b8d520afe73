"""How far apart learners are: as points, or by given distances."""

from typing import Any

import numpy as np
from sklearn.metrics import silhouette_score
from sklearn.metrics.pairwise import euclidean_distances

_SILHOUETTE_SAMPLE = 2000


class Features:
    """Learners as points, Euclidean distances between them.

    Args:
        points: Array of shape `(learners, features)`.
    """

    def __init__(self, points: np.ndarray):
        self.points = points

    def between(self, some: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Return the distances between two groups, of shape `(some, others)`."""
        return euclidean_distances(self.points[some], self.points[others])

    def rotated(self) -> np.ndarray:
        """Return points of the same distances in as few dimensions as they lie in."""
        if len(self.points) >= self.points.shape[1]:
            return self.points
        return np.linalg.qr(self.points.T, mode="r").T

    def input_of(self, clusterer: Any) -> np.ndarray:
        """Return what a scikit-learn clusterer is fitted on."""
        if "precomputed" in _notions(clusterer):
            raise ValueError(
                "Expected `distances` with a clusterer that takes precomputed ones. "
                f"Received: {clusterer!r} and distances=None. Pass "
                "distances='disagreement', for instance."
            )
        return self.points

    def silhouette(self, labels: np.ndarray) -> float:
        """Return the mean silhouette coefficient of a clustering."""
        return _silhouette(self.points, labels, "euclidean")


class Distances:
    """Learners of which only the distances are known.

    Args:
        matrix: Symmetric array of shape `(learners, learners)`.
    """

    def __init__(self, matrix: np.ndarray):
        self.matrix = matrix

    def between(self, some: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Return the distances between two groups, of shape `(some, others)`."""
        return self.matrix[np.ix_(some, others)]

    def input_of(self, clusterer: Any) -> np.ndarray:
        """Return what a clusterer is fitted on: distances, or how alike learners are.

        What scikit-learn calls a metric is a distance, what it calls an affinity the
        opposite.
        """
        notions = _notions(clusterer)
        if notions.get("precomputed") == "metric":
            return self.matrix
        if notions.get("precomputed") == "affinity":
            return self.matrix.max() - self.matrix
        raise ValueError(
            "Expected a clusterer with metric='precomputed' or affinity='precomputed' "
            f"to go with `distances`. Received: {clusterer!r}."
        )

    def silhouette(self, labels: np.ndarray) -> float:
        """Return the mean silhouette coefficient of a clustering."""
        return _silhouette(self.matrix, labels, "precomputed")


def _notions(clusterer: Any) -> dict[str, str]:
    """Give what a clusterer's points are like: the value, and the parameter's name."""
    params = clusterer.get_params() if hasattr(clusterer, "get_params") else {}
    return {
        value: name.split("__")[-1]
        for name, value in params.items()
        if name.split("__")[-1] in ("metric", "affinity") and isinstance(value, str)
    }


def _silhouette(points: np.ndarray, labels: np.ndarray, metric: str) -> float:
    kept = labels >= 0
    points = points[np.ix_(kept, kept)] if metric == "precomputed" else points[kept]
    n = min(len(points), _SILHOUETTE_SAMPLE)
    return float(
        silhouette_score(
            points, labels[kept], metric=metric, sample_size=n, random_state=0
        )
    )
