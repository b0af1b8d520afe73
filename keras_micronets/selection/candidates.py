"""`Candidates`: the learners to choose from, checked and sorted by accuracy."""

import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from keras_micronets.edge.combine import EPSILON
from keras_micronets.selection.selection import Selection
from keras_micronets.selection.validation import (
    as_float,
    as_labels,
    check_n_members,
    check_probabilities,
    in_blocks,
)

__all__ = ["Candidates"]


class Candidates:
    """Learners to choose from, the most accurate first.

    Ties go to the lower negative log-likelihood, then to an order by what the learners
    predict. So the order of the pool does not matter: methods work with indices of
    candidates and break ties by taking the first. The pool's probabilities are read a
    block at a time.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`, of any floating
            type; may be memory-mapped.
        y: Labels, sparse or one-hot; see `as_labels`.
        n_members: Integer, the number of learners to keep. Defaults to `1`.

    Attributes:
        y: Integer array of shape `(samples,)`.
        n_members: Integer.
        order: Integer array of shape `(learners,)`: the index of each candidate in
            `probabilities`. All other arrays are in this order.
        predictions: Unsigned integer array of shape `(learners, samples)`: the
            predicted classes.
        likelihoods: Float array of shape `(learners, samples)`: the probabilities of
            the right classes, clipped to `[1e-7, 1]`.
        correct: Boolean array of shape `(learners, samples)`.
        accuracies: Float array of shape `(learners,)`.
        losses: Float array of shape `(learners,)`: negative log-likelihoods.
        is_copy: Boolean array of shape `(learners,)`: whether a candidate predicts
            exactly the same as the one before it.

    Raises:
        ValueError: If the data is invalid, or there are fewer learners than members.
    """

    def __init__(self, probabilities: Any, y: Any, n_members: int = 1):
        p = self._p = check_probabilities(probabilities)
        self.y = as_labels(y, p.shape[2], p.shape[1])
        self.n_members = check_n_members(n_members, len(p))
        predictions = np.empty(p.shape[:2], np.min_scalar_type(p.shape[2] - 1))
        likelihoods = np.empty(p.shape[:2])
        samples = np.arange(len(self.y))
        for part, block in in_blocks(p):
            predictions[part] = block.argmax(axis=2)
            likelihoods[part] = block[:, samples, self.y]
        np.clip(likelihoods, EPSILON, 1, out=likelihoods)
        accuracies = (predictions == self.y).mean(axis=1)
        losses = -np.log(likelihoods).mean(axis=1)
        digests = _digests_of_tied(p, accuracies, losses)
        self.order = np.lexsort((digests, losses, -accuracies))
        self.predictions = predictions[self.order]
        self.likelihoods = likelihoods[self.order]
        self.accuracies = accuracies[self.order]
        self.losses = losses[self.order]
        digests = digests[self.order]
        copies = (digests[1:] == digests[:-1]) & (digests[1:] != b"")
        self.is_copy = np.append(False, copies)

    def __len__(self) -> int:
        return len(self.order)

    @property
    def n_samples(self) -> int:
        return self._p.shape[1]

    @property
    def n_classes(self) -> int:
        return self._p.shape[2]

    @cached_property
    def correct(self) -> np.ndarray:
        return self.predictions == self.y

    @cached_property
    def votes(self) -> np.ndarray:
        """Integers of shape `(samples, classes)`: the votes for each class."""
        return self.votes_of(range(len(self)))

    def votes_of(self, chosen: Sequence[int]) -> np.ndarray:
        """Count the votes of some candidates, `(samples, classes)`."""
        cells = self.predictions[list(chosen)].astype(np.int64)
        cells += np.arange(self.n_samples) * self.n_classes
        counts = np.bincount(cells.ravel(), minlength=self.n_samples * self.n_classes)
        return counts.reshape(self.n_samples, self.n_classes)

    def probabilities(self, chosen: Any) -> np.ndarray:
        """Return the probabilities of one candidate, or of several."""
        return as_float(self._p[self.order[chosen]])

    def select(
        self,
        chosen: Iterable[int],
        *,
        method: str,
        weights: Any = None,
        labels: Any = None,
        representative: str | None = None,
    ) -> Selection:
        """Return the `Selection` of some candidates, in indices of the pool.

        Args:
            chosen: Integers, the indices of the kept candidates.
            method, representative: See `Selection`.
            weights: Floats, one for each kept candidate, with any positive sum.
                Defaults to `None`: equal weights.
            labels: Integers of shape `(learners,)`, the cluster of each candidate.
                Defaults to `None`: zeros.
        """
        indices = self.order[np.array([*chosen], int)]
        weights = np.ones(len(indices)) if weights is None else np.asarray(weights)
        by_index = np.argsort(indices)
        of_pool = np.zeros(len(self), int)
        of_pool[self.order] = 0 if labels is None else labels
        return Selection(
            indices[by_index],
            of_pool,
            weights[by_index] / weights.sum(),
            method,
            representative,
        )


def _digests_of_tied(
    p: np.ndarray, accuracies: np.ndarray, losses: np.ndarray
) -> np.ndarray:
    """Return a digest of each learner whose scores another learner has, too."""
    scores = np.stack([accuracies, losses], axis=1)
    _, group, counts = np.unique(
        scores, axis=0, return_inverse=True, return_counts=True
    )
    digests = np.zeros(len(p), "S16")
    for learner in np.flatnonzero(counts[group.reshape(-1)] > 1):
        content = np.ascontiguousarray(p[learner]).data
        digests[learner] = hashlib.blake2b(content, digest_size=8).hexdigest()
    return digests
