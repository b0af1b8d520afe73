"""`Targets`: what learners should predict, with the task and the sample weights."""

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import numpy as np
from scipy.optimize import nnls

from keras_micronets.edge.combine import EPSILON
from keras_micronets.edge.tasks import CLASS_TASKS, TASKS, to_columns
from keras_micronets.selection.validation import (
    as_labels,
    as_numbers,
    check_choice,
    check_probabilities,
    check_sample_weight,
    learner_name,
)

__all__ = ["Targets", "check_data"]


class Targets:
    """Hold what learners should predict, for tasks other than classification.

    Selection methods, their cross-validation, `fit_weights`, `as_combined` and reports
    take `Targets` in the place of labels, and compare learners by the loss of the task:

    * `"multiclass"`, `"binary"`, `"multilabel"`: the negative log-likelihood, that is
      the cross-entropy, averaged over the labels of a sample.
    * `"regression"`: the mean squared error, divided by the variance of each output so
      that outputs count alike. One minus this is the coefficient of determination, R².
    * `"reconstruction"`: the same, divided by the variance of all values together.

    Args:
        y: Array of shape `(samples,)` or `(samples, *outputs)`: labels as for
            `as_labels`, zeros and ones for `"multilabel"`, or numbers.
        task: One of `edge.TASKS`. Defaults to `"multiclass"`.
        sample_weight: Non-negative numbers of shape `(samples,)`, the weight of each
            sample in losses and scores. Methods that count votes take none. Defaults
            to `None`, equal weights.

    Raises:
        ValueError: If the task is unknown or the weights are invalid.

    Example:

    ```python
    predictions = np.array([[[1.0], [2.0]], [[3.0], [1.0]]])  # (learners, samples, 1)
    targets = kmn.selection.Targets([1.0, 2.5], "regression")
    kmn.selection.greedy(predictions, targets, n_members=1).indices  # array([0])
    ```
    """

    def __init__(self, y: Any, task: str = "multiclass", *, sample_weight: Any = None):
        check_choice("task", task, TASKS)
        self.y, self.task = np.asarray(y), task
        self.sample_weight = check_sample_weight(sample_weight, len(self.y))
        self.scale: Any = 1.0
        self.n_classes = 2  # until they are known
        if not self.has_classes:
            self.y = as_numbers(self.y, "targets")
            self.y = self.y.reshape(len(self.y), -1)
            spread = self.y.std(axis=0 if task == "regression" else None)
            self.scale = np.where(spread > 0, spread, 1.0)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, samples: Any) -> "Targets":
        """Return the targets of some samples, with the scale of all."""
        some = copy(self)
        some.y = self.y[samples]
        if self.sample_weight is not None:
            some.sample_weight = self.sample_weight[samples]
        return some

    @property
    def has_classes(self) -> bool:
        """Whether predictions are probabilities."""
        return self.task in CLASS_TASKS

    @property
    def argument(self) -> Any:
        """The `y` to pass to a selection method: plain labels where they suffice."""
        plain = self.task == "multiclass" and self.sample_weight is None
        return self.y if plain else self

    @property
    def loss_of_chance(self) -> float:
        """The loss of a prediction that knows nothing of the inputs."""
        return float(np.log(self.n_classes)) if self.has_classes else 1.0

    def check(
        self, predictions: Any, names: Sequence[str] | None = None
    ) -> tuple[np.ndarray, "Targets"]:
        """Return checked predictions `(learners, samples, outputs)` and targets.

        The task `"binary"` becomes `"multiclass"`, with the columns `[1 - p, p]`.
        Errors name learners by `names`, where these are given.
        """
        if self.task in ("multiclass", "binary"):
            p = check_probabilities(predictions, names)
            labels = as_labels(self.y, p.shape[2], p.shape[1])
            checked = self._with(labels, "multiclass")
            checked.n_classes = p.shape[2]
            return p, checked
        p = as_numbers(predictions, "predictions", names)
        if p.ndim < 3 or not p.size:
            raise ValueError(
                "Expected predictions of shape (learners, samples, *outputs), of at "
                f"least one learner and sample. Received: shape {p.shape}."
            )
        p = p.reshape(*p.shape[:2], -1)
        y = self.y.reshape(len(self.y), -1)
        if y.shape != p.shape[1:]:
            raise ValueError(
                f"Expected targets of shape {p.shape[1:]}, that of the predictions of "
                f"one learner, for task={self.task!r}. Received: shape {y.shape}. For "
                "labels of classes pass task='multiclass', and `from_logits` if the "
                "learners return logits."
            )
        labels = _check_labels(p, y, names) if self.task == "multilabel" else y
        return p, self._with(labels, self.task)

    def rows(self, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return class probabilities and labels with one row per sample and label."""
        if self.task != "multilabel":
            return p, self.y
        columns = to_columns(p)
        labels = self.y.reshape(-1).astype(np.int64)
        return columns.reshape(*p.shape[:-2], len(labels), 2), labels

    def terms(self, p: np.ndarray) -> np.ndarray:
        """Return the numbers whose weighted mean over learners decides the loss.

        Args:
            p: Checked predictions of shape `(..., samples, outputs)`.

        Returns:
            Array of shape `(..., samples, cells)`: the probabilities of the right
            labels, clipped to `[1e-7, 1]`, or the scaled errors.
        """
        if not self.has_classes:
            return (p - self.y) / self.scale
        if self.task == "multilabel":
            right = np.where(self.y, p, 1 - p)
        else:
            right = p[..., np.arange(len(self.y)), self.y][..., None]
        return np.clip(right.astype(np.float64), EPSILON, 1.0)

    def loss(self, terms: np.ndarray) -> np.ndarray:
        """Return the loss of each cell, for the terms of one predictor or a mean."""
        return -np.log(terms) if self.has_classes else np.square(terms)

    def cell_weight(self, n_cells: int) -> np.ndarray | None:
        """Return the weight of each of the cells of all samples, or `None`."""
        weights = self.sample_weight
        return None if weights is None else np.repeat(weights, n_cells // len(self))

    def per_sample(self, cells: np.ndarray) -> np.ndarray:
        """Return the means over the cells of each sample, `(..., samples)`."""
        if cells.shape[-1] == len(self):
            return cells
        return cells.reshape(*cells.shape[:-1], len(self), -1).mean(axis=-1)

    def average(self, cells: np.ndarray) -> np.ndarray:
        """Return the weighted mean over samples of values `(..., samples * cells)`."""
        if self.sample_weight is None:
            return cells.mean(axis=-1)
        return np.average(self.per_sample(cells), axis=-1, weights=self.sample_weight)

    def mean_loss(self, p: np.ndarray) -> float:
        """Return the loss of one predictor, `p` of shape `(samples, outputs)`."""
        return float(self.average(self.loss(self.terms(p)).reshape(-1)))

    def mean_error(self, p: np.ndarray) -> float:
        """Return the error rate of one predictor, or its mean absolute scaled error."""
        if not self.has_classes:
            return float(self.average(np.abs(self.terms(p)).reshape(-1)))
        rows, labels = self.rows(p)
        return float(self.average(rows.argmax(axis=-1) != labels))

    def score(self, p: np.ndarray) -> float:
        """Return the accuracy of one predictor, or its R²."""
        wrong = self.mean_error if self.has_classes else self.mean_loss
        return 1 - wrong(p)

    def fit_weights(
        self, terms: np.ndarray, start: np.ndarray, n_iterations: int
    ) -> np.ndarray:
        """Return the weights of a mean that lower its loss on these samples.

        Args:
            terms: Array of shape `(members, samples * cells)`.
            start: Array of shape `(members,)`, the weights to start from.
            n_iterations: Integer, steps of expectation-maximisation; not needed for
                squared errors.
        """
        weights = self.cell_weight(terms.shape[1])
        if weights is not None:
            weights = weights / weights.mean()
        if self.has_classes:
            return mixture_weights(terms, start, n_iterations, weights)
        return least_squares_weights(terms if weights is None else terms * weights**0.5)

    def _with(self, y: np.ndarray, task: str) -> "Targets":
        checked = copy(self)
        checked.y, checked.task = y, task
        return checked


def check_data(
    predictions: Any, y: Any, names: Sequence[str] | None = None
) -> tuple[np.ndarray, Targets]:
    """Check predictions and targets together.

    Args:
        predictions: Array of shape `(learners, samples, classes)`, or as the task of
            `Targets` says.
        y: Labels, see `as_labels`, or `Targets`.
        names: Sequence of strings, the names of the learners for errors. Defaults to
            `None`: indices.

    Returns:
        The predictions, of shape `(learners, samples, outputs)`, and the `Targets`.
    """
    targets = y if isinstance(y, Targets) else Targets(y)
    return targets.check(predictions, names)


def mixture_weights(
    likelihoods: np.ndarray,
    start: np.ndarray,
    n_iterations: int,
    sample_weight: np.ndarray | None = None,
) -> np.ndarray:
    """Raise the likelihood of a mixture by steps of expectation-maximisation.

    Args:
        likelihoods: Float array of shape `(members, samples)`, positive.
        start: Float array of shape `(members,)`, the weights to start from.
        n_iterations: Integer, the number of steps.
        sample_weight: Float array of shape `(samples,)`, or `None` for equal weights.
            Defaults to `None`.
    """
    weights, counts = start, 1.0 if sample_weight is None else sample_weight
    for _ in range(n_iterations):
        weights = weights * (likelihoods @ (counts / (weights @ likelihoods)))
        weights /= weights.sum()
    return weights


def least_squares_weights(errors: np.ndarray) -> np.ndarray:
    """Return the weights, summing to one, of the mean of least squared error.

    With `G` the inner products of the errors, the minimum of `w @ G @ w` over
    non-negative weights that sum to one is, up to their sum, that of
    `w @ G @ w + (sum(w) - 1) ** 2`, a non-negative least-squares problem: both have the
    same conditions of optimality.

    Args:
        errors: Float array of shape `(members, samples)`.
    """
    gram = errors.astype(np.float64) @ errors.T
    gram /= max(np.trace(gram) / len(gram), np.finfo(float).tiny)
    variances, axes = np.linalg.eigh(gram)
    root = np.sqrt(np.maximum(variances, 0))[:, None] * axes.T
    rows = np.vstack([root, np.ones(len(gram))])
    weights, _ = nnls(rows, np.append(np.zeros(len(gram)), 1.0))
    return weights / weights.sum()


def _check_labels(
    p: np.ndarray, y: np.ndarray, names: Sequence[str] | None
) -> np.ndarray:
    """Return labels of several per sample as booleans."""
    if p.min() < 0 or p.max() > 1:
        learner = int(np.argmax(((p < 0) | (p > 1)).any(axis=(1, 2))))
        raise ValueError(
            "Expected probabilities from 0 to 1 for task='multilabel'. Received: "
            f"others from {learner_name(learner, names)}. These may be logits: pass "
            "`from_logits=True` when adding the learner."
        )
    if not np.isin(y, (0, 1)).all():
        raise ValueError(
            "Expected labels of zeros and ones for task='multilabel'. Received: "
            f"{y[~np.isin(y, (0, 1))][0]}."
        )
    return y.astype(bool)


SCORINGS: dict[str, Callable[[Targets, np.ndarray], float]] = {
    "loss": Targets.mean_loss,
    "error": Targets.mean_error,
}
