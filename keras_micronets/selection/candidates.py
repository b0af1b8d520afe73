"""`Candidates`: the learners to choose from, checked and sorted by accuracy."""

import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from keras_micronets.selection.selection import Selection
from keras_micronets.selection.targets import check_data
from keras_micronets.selection.validation import as_float, check_n_members, in_blocks

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
        y: Labels, see `as_labels`, or `Targets`. For several labels per sample, the
            class of each label is predicted: `samples` is then their number below.
        n_members: Integer, the number of learners to keep. Defaults to `1`.

    Attributes:
        targets: The `Targets`.
        y: Integer array of shape `(samples,)`.
        n_members: Integer.
        order: Integer array of shape `(learners,)`: the index of each candidate in
            `probabilities`. All other arrays are in this order.
        predictions: Unsigned integer array of shape `(learners, samples)`: the
            predicted classes.
        terms: Float array of shape `(learners, samples, cells)`: what is averaged over
            members, see `Targets.terms`. For classes, the probabilities of the right
            ones.
        correct: Boolean array of shape `(learners, samples)`.
        accuracies: Float array of shape `(learners,)`; R² for numbers.
        losses: Float array of shape `(learners,)`: see `Targets`.
        is_copy: Boolean array of shape `(learners,)`: whether a candidate predicts
            exactly the same as the one before it.

    Raises:
        ValueError: If the data is invalid, or there are fewer learners than members.
    """

    def __init__(self, probabilities: Any, y: Any, n_members: int = 1):
        p, self.targets = check_data(probabilities, y)
        self.n_members = check_n_members(n_members, len(p))
        targets = self.targets
        self._p, labels = p, np.empty(0)
        if targets.has_classes:
            self._p, labels = targets.rows(p)
        self._labels = labels
        smallest = np.min_scalar_type(self._p.shape[2] - 1)
        predictions = np.empty((len(p), len(labels)), smallest)
        terms = np.empty((*p.shape[:2], targets.terms(p[:1]).shape[-1]))
        for part, block in in_blocks(p):
            terms[part] = targets.terms(block)
            if targets.has_classes:
                predictions[part] = as_float(self._p[part]).argmax(axis=2)
        losses = np.empty(len(p))
        for part, block in in_blocks(terms):
            losses[part] = self.average(targets.loss(block))
        accuracies = 1 - losses
        if targets.has_classes:
            accuracies = np.asarray(targets.average(predictions == labels))
        digests = _digests_of_tied(p, accuracies, losses)
        self.order = np.lexsort((digests, losses, -accuracies))
        self._predictions = predictions[self.order]
        self.terms = terms[self.order]
        self.accuracies = accuracies[self.order]
        self.losses = losses[self.order]
        digests = digests[self.order]
        copies = (digests[1:] == digests[:-1]) & (digests[1:] != b"")
        self.is_copy = np.append(False, copies)

    def __len__(self) -> int:
        return len(self.order)

    @property
    def n_samples(self) -> int:
        """Number of labels: that of the samples, times the labels of each."""
        return len(self.y)

    @property
    def n_classes(self) -> int:
        self.check_classes()
        return self._p.shape[2]

    @property
    def y(self) -> np.ndarray:
        self.check_classes()
        return self._labels

    @property
    def predictions(self) -> np.ndarray:
        self.check_classes()
        return self._predictions

    def check_classes(self, *, weighted: bool = True) -> None:
        """Raise a `ValueError` if there are no classes, or unwanted sample weights."""
        task, weights = self.targets.task, self.targets.sample_weight
        if not self.targets.has_classes:
            raise ValueError(
                "Expected a task with classes, since predicted classes are counted. "
                f"Received: task={task!r}. Choose another method or option."
            )
        if weights is not None and not weighted:
            raise ValueError(
                "Expected no sample weights, since samples are counted. Received: some."
                " Choose another method or option."
            )

    def average(self, cells: np.ndarray) -> np.ndarray:
        """Return the mean over samples of values `(..., samples, cells)`."""
        n_cells = cells.shape[-2] * cells.shape[-1]
        return self.targets.average(cells.reshape(*cells.shape[:-2], n_cells))

    def scores_on(self, samples: np.ndarray) -> np.ndarray:
        """Return the accuracy, or R², of each candidate on some samples."""
        some = self.targets[samples]
        if not some.has_classes:
            cells = some.loss(self.terms[:, samples])
            return 1 - some.average(cells.reshape(len(self), -1))
        right = self.correct.reshape(len(self), len(self.targets), -1)[:, samples]
        return np.asarray(some.average(right.reshape(len(self), -1)))

    @cached_property
    def correct(self) -> np.ndarray:
        return self.predictions == self.y

    @cached_property
    def _columns(self) -> np.ndarray:
        """Return the columns of `votes` of all predictions and, last, of the labels."""
        labels = self.y.astype(self.predictions.dtype)
        rows = np.vstack([self.predictions, labels])
        return rows if len(rows) >= self.n_classes else _renumbered(rows)

    @property
    def columns(self) -> np.ndarray:
        """Integers of shape `(learners, samples)`: the columns of the predictions."""
        return self._columns[:-1]

    @property
    def right_columns(self) -> np.ndarray:
        """Integers of shape `(samples,)`: the columns of `votes` of the labels."""
        return self._columns[-1]

    @cached_property
    def votes(self) -> np.ndarray:
        """Integers of shape `(samples, columns)`: the votes for each class.

        There is one column for each class or, where there are more classes than
        learners, for each that any learner predicts for the sample and for the label,
        in the order of the classes. So the cost does not grow with the classes.
        """
        return self.votes_of(range(len(self)))

    def votes_of(self, chosen: Sequence[int]) -> np.ndarray:
        """Count the votes of some candidates, `(samples, columns)`."""
        width = min(self.n_classes, len(self) + 1)
        cells = self.columns[list(chosen)].astype(np.int64)
        cells += np.arange(self.n_samples) * width
        counts = np.bincount(cells.ravel(), minlength=self.n_samples * width)
        return counts.reshape(self.n_samples, width)

    def probabilities(self, chosen: Any) -> np.ndarray:
        """Return the probabilities, or scaled numbers, of one or several candidates."""
        p = as_float(self._p[self.order[chosen]])
        return p if self.targets.has_classes else p / self.targets.scale

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


def _renumbered(rows: np.ndarray) -> np.ndarray:
    """Number the distinct classes of each sample from zero, in ascending order.

    Args:
        rows: Integer array of shape `(rows, samples)`.
    """
    order = rows.argsort(axis=0)
    ordered = np.take_along_axis(rows, order, axis=0)
    numbers = np.zeros_like(ordered)
    is_new = ordered[1:] != ordered[:-1]
    np.cumsum(is_new, axis=0, dtype=rows.dtype, out=numbers[1:])
    renumbered = np.empty_like(numbers)
    np.put_along_axis(renumbered, order, numbers, axis=0)
    return renumbered


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
