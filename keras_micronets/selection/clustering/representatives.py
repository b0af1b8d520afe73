"""Which learners of the clusters are kept."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from keras_micronets.selection.clustering.geometry import Distances, Features


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
