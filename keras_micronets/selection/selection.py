"""`Selection`, `Choice` and `SizeChoice`: the results of the selection methods."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_micronets.selection.validation import as_float

__all__ = ["Choice", "Selection", "SizeChoice"]

_MAX_ROWS = 20


@dataclass(frozen=True, eq=False)
class Choice:
    """The comparison of selection methods that `auto` made; prints as a table.

    Args:
        methods: Tuple of strings, the names of the compared methods.
        n_members: Tuple of integers, how many members each was to keep.
        losses: Float array of shape `(methods, folds)`: held-out losses, NaN where a
            method failed.
        chosen: Integer, the index of the chosen method.
        scoring: `"loss"` or `"error"`.
        n_samples: Integer, the number of samples used for the choice.
        nested_loss: Float, the loss of the whole procedure, choice included, in nested
            resampling; `None` if it was not computed.
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
        """Mean loss of each method over the folds, of shape `(methods,)`."""
        return self.losses.mean(axis=1)

    @property
    def method(self) -> str:
        """The name of the chosen method."""
        return self.methods[self.chosen]

    @property
    def optimism(self) -> float | None:
        """The selection bias: the nested loss minus the cross-validated loss.

        The lowest of many losses is partly low by chance. Nested resampling repeats the
        choice without the samples that it is scored on.
        """
        if self.nested_loss is None:
            return None
        return self.nested_loss - float(self.mean_losses[self.chosen])

    def __str__(self) -> str:
        means = self.mean_losses
        width = max(map(len, self.methods))
        lines = [f"{'method':<{width}}  members  held-out {self.scoring}"]
        for i in np.argsort(means, kind="stable")[:_MAX_ROWS]:
            value = "failed" if np.isnan(means[i]) else f"{means[i]:.4f}"
            mark = "  chosen" if i == self.chosen else ""
            lines.append(
                f"{self.methods[i]:<{width}}  {self.n_members[i]:>7}  {value}{mark}"
            )
        if len(means) > _MAX_ROWS:
            lines.append(f"and {len(means) - _MAX_ROWS} others")
        return "\n".join([*lines, self._notes()])

    def _notes(self) -> str:
        text = f"{self.losses.shape[1]} folds of {self.n_samples} samples."
        bias = self.optimism
        if bias is None:
            return text
        return (
            f"{text}\nNested resampling, which repeats the choice in each outer fold: "
            f"{self.nested_loss:.4f}. Selection bias: {bias:+.4f}."
        )


@dataclass(frozen=True, eq=False)
class SizeChoice:
    """The held-out losses that decided the number of members; prints as the reason.

    Args:
        n_members: Integer, the chosen number.
        max_members: Integer, the largest permitted number.
        losses: Float array of shape `(sizes,)`: the held-out loss of the ensembles with
            1, 2, ... members and fitted weights. The first is the best single learner.
        errors: Float array of shape `(sizes,)`: the standard error of the paired
            difference of each loss from that of the chosen number.
        n_samples: Integer, the number of samples.
        source: String, the origin of the members: `"clusters"` or `"all learners"`.
    """

    n_members: int
    max_members: int
    losses: np.ndarray
    errors: np.ndarray
    n_samples: int
    source: str

    @property
    def gain(self) -> float:
        """The held-out loss of the best single learner minus that of the ensemble."""
        return float(self.losses[0] - self.losses[self.n_members - 1])

    @property
    def gain_error(self) -> float:
        """The standard error of `gain`."""
        return float(self.errors[0])

    def __str__(self) -> str:
        return (
            f"{self.n_members} of at most {self.max_members} members, out of "
            f"{self.source}: {self._reason()}.\n"
            f"Held-out loss {self.losses[self.n_members - 1]:.4f}; that of the best "
            f"single learner {self.losses[0]:.4f}. Gain: {self.gain:.4f} ± "
            f"{self.gain_error:.4f} (standard error over {self.n_samples} samples)."
        )

    def _reason(self) -> str:
        fewer = "fewer would be worse, and " if self.n_members > 1 else ""
        if self.n_members == self.max_members:
            return f"{fewer}no more are permitted"
        if self.n_members == len(self.losses):
            return f"{fewer}there are no others"
        best = self.n_members + int(self.losses[self.n_members :].argmin())
        lower = self.losses[self.n_members - 1] - self.losses[best]
        if lower <= 0:
            return "more do not lower the held-out loss"
        more = best + 1 - self.n_members
        return (
            f"{more} more would lower the held-out loss by {lower:.4f} ± "
            f"{self.errors[best]:.4f}"
        )


@dataclass(frozen=True, eq=False)
class Selection:
    """The learners that were kept, and their weights.

    Args:
        indices: Integer array of shape `(members,)`, sorted: the kept learners.
        labels: Integer array of shape `(learners,)`: the cluster of each learner, `-1`
            for one in no cluster. Zeros for methods without clusters.
        weights: Float array of shape `(members,)`, non-negative and summing to one.
        method: String, the name of the method.
        representative: String, how members were taken from the clusters, or `None`.
            Defaults to `None`.
        choice: A `Choice`, how the method was chosen, or `None`. Defaults to `None`.
        size: A `SizeChoice`, how the number of members was chosen, or `None`. Defaults
            to `None`.
    """

    indices: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    method: str
    representative: str | None = None
    choice: Choice | None = None
    size: SizeChoice | None = None

    @classmethod
    def uniform(
        cls,
        indices: Any,
        labels: Any,
        *,
        method: str,
        representative: str | None = None,
    ) -> "Selection":
        """Return a selection whose members have equal weights.

        The arguments are as for `Selection`; `indices` may be in any order.
        """
        indices = np.sort(np.asarray(indices))
        weights = np.full(len(indices), 1 / len(indices))
        return cls(indices, np.asarray(labels), weights, method, representative)

    def combined(self, probabilities: Any) -> np.ndarray:
        """Return the weighted mean of the kept learners' predictions.

        Args:
            probabilities: Array of shape `(learners, samples, classes)`, predicted by
                all learners of the pool for any samples.

        Returns:
            Float array of shape `(samples, classes)`.
        """
        kept = as_float(np.asarray(probabilities)[self.indices])
        return np.average(kept, axis=0, weights=self.weights)
