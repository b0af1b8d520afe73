"""What learners are compared by when they are clustered."""

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.random_projection import GaussianRandomProjection

from keras_micronets.selection.candidates import Candidates
from keras_micronets.selection.clustering.geometry import Distances, Features
from keras_micronets.selection.diversity.pairwise import (
    disagreement_of,
    double_fault_of,
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
