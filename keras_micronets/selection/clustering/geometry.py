"""How far apart learners are: as points, or by given distances."""

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.metrics import silhouette_score
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.random_projection import GaussianRandomProjection

from keras_micronets.selection.candidates import Candidates
from keras_micronets.selection.diversity import disagreement_of, double_fault_of

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


#: Larger features than so many numbers are projected.
MAX_NUMBERS = 2**24
N_PROJECTED = 512
#: Zeros of 8-bit outputs would drown all else in logarithms.
SMALLEST = 1e-3


def features(
    candidates: Candidates, places: np.ndarray, on: str, random_state: Any
) -> Features:
    """Describe some candidates by what they predict.

    Where that would be more than `MAX_NUMBERS` numbers, it is projected at random to
    `N_PROJECTED` dimensions, a block at a time: distances then are right within some
    percent (Johnson & Lindenstrauss 1984).

    Args:
        candidates: `Candidates`.
        places: Integers: which of them.
        on: `"probabilities"`, `"log_probabilities"`, `"predictions"` (one-hot) or
            `"correctness"`.
        random_state: As in scikit-learn, for the projection.
    """

    def describe(some: np.ndarray) -> np.ndarray:
        return _FEATURES[on](candidates, some).reshape(len(some), -1)

    one = describe(places[:1])
    if len(places) * one.size <= MAX_NUMBERS:
        return Features(describe(places))
    projection = GaussianRandomProjection(N_PROJECTED, random_state=random_state)
    projection.fit(one)
    length = max(1, MAX_NUMBERS // one.size // 4)
    parts = np.split(places, range(length, len(places), length))
    return Features(np.concatenate([projection.transform(describe(p)) for p in parts]))


def as_distances(
    candidates: Candidates, places: np.ndarray, given: str | np.ndarray
) -> Distances:
    """Measure the distances of some candidates.

    Args:
        candidates: `Candidates`.
        places: Integers: which of them.
        given: `"disagreement"`; `"double_fault"`, one less the share of samples that
            two get wrong both; or an array of shape `(learners, learners)`, in the
            order of the pool.
    """
    if isinstance(given, str):
        matrix = _DISTANCES[given](candidates, places)
    else:
        pool = candidates.order[places]
        matrix = np.asarray(given, float)[np.ix_(pool, pool)]
    return Distances(matrix)


def check_notion(on: str, given: Any, n_learners: int) -> None:
    """Raise a `ValueError` unless features and distances are ones that are known."""
    if on not in _FEATURES:
        raise ValueError(f"Expected `on` to be one of {[*_FEATURES]}. Received: {on=}.")
    if given is None:
        return
    if isinstance(given, str):
        if given not in _DISTANCES:
            raise ValueError(
                f"Expected distances to be one of {[*_DISTANCES]}, or an array. "
                f"Received: distances={given!r}."
            )
        return
    matrix = np.asarray(given, float)
    if matrix.shape != (n_learners, n_learners):
        raise ValueError(
            f"Expected distances of shape ({n_learners}, {n_learners}), one for each "
            f"two learners. Received: shape {matrix.shape}."
        )
    if not (np.isfinite(matrix).all() and (matrix >= 0).all() and _symmetric(matrix)):
        raise ValueError(
            "Expected finite, non-negative, symmetric distances, zero on the diagonal. "
            "Received: others."
        )


def _symmetric(matrix: np.ndarray) -> bool:
    return np.allclose(matrix, matrix.T) and np.allclose(matrix.diagonal(), 0)


def _probabilities(candidates: Candidates, places: np.ndarray) -> np.ndarray:
    return candidates.probabilities(places)


def _log_probabilities(candidates: Candidates, places: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(candidates.probabilities(places), SMALLEST))


def _one_hot(candidates: Candidates, places: np.ndarray) -> np.ndarray:
    classes = np.arange(candidates.n_classes)
    return (candidates.predictions[places][..., None] == classes).astype(np.float32)


def _correctness(candidates: Candidates, places: np.ndarray) -> np.ndarray:
    return candidates.correct[places].astype(np.float32)


def _disagreement(candidates: Candidates, places: np.ndarray) -> np.ndarray:
    return disagreement_of(candidates.predictions[places])


def _double_fault(candidates: Candidates, places: np.ndarray) -> np.ndarray:
    matrix = 1 - double_fault_of(candidates.correct[places])
    np.fill_diagonal(matrix, 0)
    return matrix


_FEATURES: dict[str, Callable[..., np.ndarray]] = {
    "probabilities": _probabilities,
    "log_probabilities": _log_probabilities,
    "predictions": _one_hot,
    "correctness": _correctness,
}
_DISTANCES: dict[str, Callable[..., np.ndarray]] = {
    "disagreement": _disagreement,
    "double_fault": _double_fault,
}
