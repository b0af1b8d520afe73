"""Distances between learners: as points in Euclidean space, or as a matrix."""

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.metrics import silhouette_score
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.random_projection import GaussianRandomProjection

from keras_micronets.selection.candidates import Candidates
from keras_micronets.selection.diversity import disagreement_of, double_fault_of
from keras_micronets.selection.validation import check_choice

__all__ = ["Distances", "Points", "as_distances", "as_points", "check_geometry"]

_SILHOUETTE_SAMPLE = 2000
#: Larger features, in numbers, of more learners than `N_PROJECTED` are projected to
#: that many dimensions. For fewer learners exact distances cost less.
MAX_NUMBERS = 2**24
N_PROJECTED = 512
# Numbers that are decomposed at once: a copy of all features would be slow to allocate.
_BLOCK = 2**20
# Zeros of 8-bit outputs would dominate all other logarithms.
MIN_PROBABILITY = 1e-3


class Points:
    """Learners as points with Euclidean distances.

    Args:
        points: Array of shape `(learners, features)`.
    """

    def __init__(self, points: np.ndarray):
        self.points = points

    def between(self, some: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Return the distances between two groups, of shape `(some, others)`."""
        return euclidean_distances(self.points[some], self.points[others])

    def rotated(self) -> np.ndarray:
        """Return points with the same distances in the fewest dimensions."""
        n_points, n_features = self.points.shape
        if n_points >= n_features:
            return self.points
        length = max(_BLOCK // n_points, 8 * n_points)
        parts = np.split(self.points, range(length, n_features, length), axis=1)
        triangles = [np.linalg.qr(part.T, mode="r") for part in parts]
        if len(parts) > 1:
            triangles = [np.linalg.qr(np.concatenate(triangles), mode="r")]
        return np.transpose(triangles[0])

    def input_of(self, clusterer: Any) -> np.ndarray:
        """Return the input of a scikit-learn clusterer."""
        if "precomputed" in _metrics(clusterer):
            raise ValueError(
                "Expected `distances` with a clusterer that takes precomputed ones. "
                f"Received: {clusterer!r} and distances=None. Pass "
                "distances='disagreement', for instance."
            )
        return self.points

    def silhouette(self, labels: np.ndarray) -> float:
        """Return the mean silhouette coefficient of a clustering."""
        kept = labels >= 0
        return _silhouette(self.points[kept], labels[kept], "euclidean")


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
        """Return the input of a scikit-learn clusterer: distances or similarities.

        scikit-learn's `metric` is a distance, its `affinity` a similarity.
        """
        metrics = _metrics(clusterer)
        if metrics.get("precomputed") == "metric":
            return self.matrix
        if metrics.get("precomputed") == "affinity":
            return self.matrix.max() - self.matrix
        raise ValueError(
            "Expected a clusterer with metric='precomputed' or affinity='precomputed' "
            f"to go with `distances`. Received: {clusterer!r}."
        )

    def silhouette(self, labels: np.ndarray) -> float:
        """Return the mean silhouette coefficient of a clustering."""
        kept = labels >= 0
        matrix = self.matrix[np.ix_(kept, kept)]
        return _silhouette(matrix, labels[kept], "precomputed")


def as_points(
    candidates: Candidates, indices: np.ndarray, on: str, random_state: Any
) -> Points:
    """Return some candidates as points.

    Features of more than `MAX_NUMBERS` numbers are rotated to as many dimensions as
    there are candidates. Those of more than `N_PROJECTED` candidates are projected at
    random to that many dimensions, a block at a time, which preserves distances to a
    few percent (Johnson & Lindenstrauss 1984).

    Args:
        candidates: `Candidates`.
        indices: Integers, the indices of the candidates.
        on: The features; see `cluster`.
        random_state: As in scikit-learn, for the projection.
    """

    def features(some: np.ndarray) -> np.ndarray:
        return _FEATURES[on](candidates, some).reshape(len(some), -1)

    one = features(indices[:1])
    if len(indices) * one.size <= MAX_NUMBERS:
        return Points(features(indices))
    if len(indices) <= N_PROJECTED:  # rotated, so that no copy of the features is kept
        return Points(Points(features(indices)).rotated())
    projection = GaussianRandomProjection(N_PROJECTED, random_state=random_state)
    projection.fit(one)
    length = max(1, MAX_NUMBERS // one.size // 4)
    parts = np.split(indices, range(length, len(indices), length))
    projected = [np.asarray(projection.transform(features(part))) for part in parts]
    return Points(np.concatenate(projected))


def as_distances(
    candidates: Candidates, indices: np.ndarray, distances: Any
) -> Distances:
    """Return the distances of some candidates.

    Args:
        candidates: `Candidates`.
        indices: Integers, the indices of the candidates.
        distances: A name or an array in the order of the pool; see `cluster`.
    """
    if isinstance(distances, str):
        return Distances(_DISTANCES[distances](candidates, indices))
    pool = candidates.order[indices]
    return Distances(np.asarray(distances, float)[np.ix_(pool, pool)])


def check_geometry(on: str, distances: Any, n_learners: int) -> None:
    """Raise a `ValueError` unless features and distances are valid; see `cluster`."""
    check_choice("on", on, _FEATURES)
    if distances is None:
        return
    if isinstance(distances, str):
        check_choice("distances", distances, _DISTANCES)
        return
    matrix = np.asarray(distances, float)
    if matrix.shape != (n_learners, n_learners):
        raise ValueError(
            f"Expected distances of shape ({n_learners}, {n_learners}), one for each "
            f"pair of learners. Received: shape {matrix.shape}."
        )
    for valid, received in (
        (np.isfinite(matrix).all(), "NaN or infinity"),
        ((matrix >= 0).all(), "a negative value"),
        (np.allclose(matrix, matrix.T), "an asymmetric array"),
        (np.allclose(matrix.diagonal(), 0), "a diagonal that is not zero"),
    ):
        if not valid:
            raise ValueError(
                "Expected finite, non-negative, symmetric distances, zero on the "
                f"diagonal. Received: {received}."
            )


def _log_probabilities(candidates: Candidates, indices: np.ndarray) -> np.ndarray:
    candidates.check_classes()
    return np.log(np.maximum(candidates.probabilities(indices), MIN_PROBABILITY))


def _one_hot(candidates: Candidates, indices: np.ndarray) -> np.ndarray:
    # Classes that no learner predicts for a sample would add nothing to any distance.
    columns = np.arange(candidates.votes.shape[1])
    return (candidates.columns[indices][..., None] == columns).astype(np.float32)


def _correctness(candidates: Candidates, indices: np.ndarray) -> np.ndarray:
    return candidates.correct[indices].astype(np.float32)


def _disagreement(candidates: Candidates, indices: np.ndarray) -> np.ndarray:
    return disagreement_of(candidates.predictions[indices])


def _double_fault(candidates: Candidates, indices: np.ndarray) -> np.ndarray:
    matrix = 1 - double_fault_of(candidates.correct[indices])
    np.fill_diagonal(matrix, 0)
    return matrix


_FEATURES: dict[str, Callable[..., np.ndarray]] = {
    "probabilities": Candidates.probabilities,
    "log_probabilities": _log_probabilities,
    "predictions": _one_hot,
    "correctness": _correctness,
}
_DISTANCES: dict[str, Callable[..., np.ndarray]] = {
    "disagreement": _disagreement,
    "double_fault": _double_fault,
}


def _metrics(clusterer: Any) -> dict[str, str]:
    """Return a clusterer's metric or affinity, with the name of the parameter."""
    params = clusterer.get_params() if hasattr(clusterer, "get_params") else {}
    return {
        value: name.split("__")[-1]
        for name, value in params.items()
        if name.split("__")[-1] in ("metric", "affinity") and isinstance(value, str)
    }


def _silhouette(points: np.ndarray, labels: np.ndarray, metric: str) -> float:
    n = min(len(points), _SILHOUETTE_SAMPLE)
    options = {"metric": metric, "sample_size": n, "random_state": 0}
    return float(silhouette_score(points, labels, **options))
