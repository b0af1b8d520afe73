"""`Selection`: what every way of choosing returns."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_micronets.selection.validation import as_numbers


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


_MOST_ROWS = 20


@dataclass(frozen=True, eq=False)
class Choice:
    """How one of several methods was chosen; it prints as a table.

    Args:
        methods: Tuple of strings, the names that were tried.
        n_members: Tuple of integers, how many members each was to keep.
        losses: Float array of shape `(tried, folds)`: held-out losses, NaN where a
            method had no answer.
        chosen: Integer, which one it was.
        scoring: `"loss"` or `"error"`.
        n_samples: Integer. How many samples the choice was made on.
        nested_loss: Float, the held-out loss of the whole procedure, choice included;
            `None` if that was not asked for.
    """

    methods: tuple[str, ...]
    n_members: tuple[int, ...]
    losses: np.ndarray
    chosen: int
    scoring: str
    n_samples: int
    nested_loss: float | None = None

    @property
    def mean_losses(self) -> np.ndarray:
        """Float array of shape `(tried,)`."""
        return self.losses.mean(axis=1)

    @property
    def method(self) -> str:
        """The name of the chosen method."""
        return self.methods[self.chosen]

    @property
    def optimism(self) -> float | None:
        """How much better the chosen one looked than the procedure is.

        The lowest of many losses is low by chance, too. In nested resampling the
        choice is made anew without the samples that it is scored on.
        """
        if self.nested_loss is None:
            return None
        return self.nested_loss - float(self.mean_losses[self.chosen])

    def __str__(self):
        means = self.mean_losses
        width = max(map(len, self.methods))
        lines = [f"{'method':<{width}}  members  held-out {self.scoring}"]
        for i in np.argsort(means, kind="stable")[:_MOST_ROWS]:
            value = "no answer" if np.isnan(means[i]) else f"{means[i]:.4f}"
            mark = "  chosen" if i == self.chosen else ""
            lines.append(
                f"{self.methods[i]:<{width}}  {self.n_members[i]:>7}  {value}{mark}"
            )
        if len(means) > _MOST_ROWS:
            lines.append(f"and {len(means) - _MOST_ROWS} others")
        return "\n".join([*lines, self._about()])

    def _about(self):
        folds = self.losses.shape[1]
        text = f"{folds} folds of {self.n_samples} samples."
        if self.nested_loss is None:
            return text
        return (
            f"{text}\nWith the choice made anew in each of the outer folds: "
            f"{self.nested_loss:.4f}, so the choice looked "
            f"{'better' if self.optimism >= 0 else 'worse'} than it is by "
            f"{abs(self.optimism):.4f}."
        )
