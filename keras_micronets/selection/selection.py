"""`Selection`: what every way of choosing returns."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_micronets.selection.blocks import as_numbers


@dataclass(frozen=True, eq=False)
class Selection:
    """Which learners were kept, and how they are weighted.

    Args:
        indices: Integer array of shape `(members,)`, sorted: the kept learners.
        labels: Integer array of shape `(learners,)`: the cluster of each learner, `-1`
            for one in no cluster. Zeros where the method knows no clusters.
        weights: Float array of shape `(members,)`, non-negative and summing to one.
        method: String. How the learners were grouped or ranked.
        representative: String, how members were taken from the clusters, or `None`.
            Defaults to `None`.
        choice: A `Choice`, how the method was chosen, or `None`. Defaults to `None`.
    """

    indices: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    method: str
    representative: str | None = None
    choice: Any = None

    @classmethod
    def uniform(
        cls,
        indices: np.ndarray,
        labels: np.ndarray,
        *,
        method: str,
        representative: str | None = None,
    ) -> "Selection":
        """Make a selection whose members weigh the same.

        Args:
            indices: Integers, in any order: the kept learners.
            labels: Integers of shape `(learners,)`: the cluster of each learner.
            method: String. How the learners were grouped or ranked.
            representative: String or `None`. Defaults to `None`.

        Returns:
            A `Selection`.
        """
        indices = np.sort(np.asarray(indices))
        weights = np.full(len(indices), 1 / len(indices))
        return cls(indices, np.asarray(labels), weights, method, representative)

    def combined(self, probabilities: np.ndarray) -> np.ndarray:
        """Return the weighted mean of what the kept learners predict.

        Args:
            probabilities: Array of shape `(learners, samples, classes)`, of the
                learners that were chosen among, on any samples.

        Returns:
            Float array of shape `(samples, classes)`.
        """
        kept = as_numbers(np.asarray(probabilities)[self.indices])
        return np.average(kept, axis=0, weights=self.weights)
