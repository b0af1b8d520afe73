from collections.abc import Sequence

import keras
import numpy as np

from keras_micronets import layers
from keras_micronets.callbacks.base import SparsityCallback, chosen_kernels
from keras_micronets.schedules import as_schedule, check_sparsity
from keras_micronets.sparsity import (
    Unstructured,
    as_allocation,
    as_criterion,
    needs_gradients,
)


class WeightPruning(SparsityCallback):
    """Remove weights of a model while it trains.

    The layers that have kernels are prepared in place when `fit` begins. From
    then on their masks follow the schedule; the forward pass is sparse at every
    moment, and so is every file that is saved. Sparsity never falls: in a second
    `fit`, or one that resumes, the larger of the schedule and what is there holds.
    At the end of each epoch, `logs["sparsity"]` is the share removed of the whole
    model; list this callback before the loggers that shall show it. To treat layers
    differently, give `fit` one of these for each `scope`.

    Args:
        schedule: Sparsity as a function of progress in [0, 1]: one of
            `keras_micronets.schedules`, any callable, or a
            `tfmot.sparsity.keras.PruningSchedule` as it is.
        pattern: What is removed at a time: `sparsity.Unstructured()`,
            `sparsity.NofM(2, 4)`, `sparsity.Block(4)` or `sparsity.Channels()`; the
            sparsity is met within half a block or channel a kernel. `None` for single
            weights. Defaults to `None`.
        criterion: What goes first: weights of the smallest `"magnitude"`; `"random"`
            ones; those that change the loss least (`"taylor"`) or that training
            makes smaller (`"movement"`), which need `data`; or a function
            `(weights, gradients) -> scores`. Defaults to `"magnitude"`.
        allocation: `"uniform"` removes the same share of each kernel, `"global"`
            the lowest scores of all kernels together, `"erk"` fewer of small
            kernels (Erdos-Renyi-Kernel); or a function with the signature of those
            in `keras_micronets.sparsity`. Defaults to `"uniform"`.
        scope: `layers.Scope`, or any function from a model to kernel handles;
            `None` for all kernels. Defaults to `None`.
        data: What criteria take gradients on, a batch an update, round after round:
            a tuple of arrays `(x, y)` or batches as they are, as a dataset (see
            `layers.batches`). Defaults to `None`.
        frequency: Integer, batches between updates; an epoch's last batch always
            has one. `None` for a hundred updates a run. A tfmot schedule brings its
            own. Defaults to `None`.
        seed: Integer, for what is random. Defaults to `0`.

    Raises:
        TypeError: When `fit` begins, if the schedule is not callable.
        ValueError: When `fit` begins, if the schedule leaves [0, 1), another argument
            is none of these, or the model is not built or has nothing to prune.

    Example:

    ```python
    pruning = keras_micronets.callbacks.WeightPruning(
        keras_micronets.schedules.PolynomialDecay(0.0, 0.8)
    )
    model.fit(x, y, epochs=20, callbacks=[pruning])
    ```

    Reference: Zhu and Gupta 2017, "To prune, or not to prune: exploring the
    efficacy of pruning for model compression".
    """

    def __init__(
        self,
        schedule,
        *,
        pattern=None,
        criterion="magnitude",
        allocation="uniform",
        scope=None,
        data=None,
        frequency: int | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.schedule = schedule
        self.pattern = pattern
        self.criterion = criterion
        self.allocation = allocation
        self.scope = scope
        self.data = data
        self.frequency = frequency
        self.seed = seed

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        known = self.params["steps"] is not None
        self._schedule = as_schedule(self.schedule, self.total_steps if known else None)
        self._criterion = as_criterion(self.criterion, seed=self.seed)

    def is_due(self, step):
        if hasattr(self._schedule, "is_due"):
            return self._schedule.is_due(step / self.total_steps)
        return step % self._frequency == 0 or self.ends_epoch(step)

    def update(self, step, progress):
        gradients = None
        if needs_gradients(self._criterion):
            gradients = self.gradients(step // self._frequency)
        prune(
            self.model,
            self._schedule(progress),
            pattern=self.pattern,
            criterion=self._criterion,
            allocation=self.allocation,
            scope=self.scope,
            gradients=gradients,
        )

    @property
    def _frequency(self):
        return self.frequency or max(1, self.total_steps // 100)

    def check(self):
        as_allocation(self.allocation)
        needs_data = needs_gradients(as_criterion(self.criterion))
        if needs_data and self.data is None:
            raise ValueError(
                "Expected `data`, as a tuple `(x, y)`, on which the criterion takes "
                f"gradients. Received: data=None, criterion={self.criterion!r}."
            )
        if self.pattern is not None and not hasattr(self.pattern, "mask"):
            raise ValueError(
                "Expected `pattern` to be a value such as `sparsity.NofM(2, 4)`. "
                f"Received: pattern={self.pattern!r}."
            )
        if self.frequency is not None and self.frequency < 1:
            raise ValueError(
                "Expected `frequency` to be 1 or more batches, or `None`. "
                f"Received: frequency={self.frequency}."
            )


def prune(
    model: keras.Model,
    sparsity: float,
    *,
    pattern=None,
    criterion="magnitude",
    allocation="uniform",
    scope=None,
    gradients: Sequence[np.ndarray] | None = None,
    seed: int = 0,
) -> None:
    """Remove weights of a prepared model, now.

    What `WeightPruning` does at each update, for training loops of one's own.

    Args:
        model: A model that `layers.prepare` was called on.
        sparsity: Float in [0, 1), the share to remove; kernels that are sparser
            already stay so.
        pattern: As for `WeightPruning`. Defaults to `None`.
        criterion: As for `WeightPruning`. Hand the same `sparsity.Movement()` to each
            call: it holds the sums. Defaults to `"magnitude"`.
        allocation: As for `WeightPruning`. Defaults to `"uniform"`.
        scope: As for `WeightPruning`. Defaults to `None`.
        gradients: Arrays, one a kernel of `layers.kernels(model)`, as
            `layers.kernel_gradients` gives them. Defaults to `None`.
        seed: Integer, for the criterion `"random"`. Defaults to `0`.

    Raises:
        ValueError: If an argument is none of these, or gradients are missing.

    Example:

    ```python
    keras_micronets.layers.prepare(model)
    gradients = keras_micronets.layers.kernel_gradients(model, x, y)
    prune(model, 0.5, criterion="taylor", gradients=gradients)
    ```
    """
    check_sparsity(sparsity, "sparsity")
    pattern = Unstructured() if pattern is None else pattern
    allocate = as_allocation(allocation)
    chosen = chosen_kernels(model, scope)
    scores = _scores(model, chosen, as_criterion(criterion, seed=seed), gradients)
    if getattr(allocate, "needs_scores", True):
        scores = list(scores)
        counts = allocate([pattern.pooled(score) for score in scores], sparsity)
    else:
        counts = allocate([_stand_in(kernel) for kernel in chosen], sparsity)
    for kernel, score, count in zip(chosen, scores, counts, strict=True):
        if count > np.count_nonzero(score == -np.inf):
            kernel.set_mask(kernel.layout.restore(pattern.mask(score, count)))
        else:
            kernel.write_zeros()  # momenta move weights that are masked


def _scores(model, chosen, criterion, gradients):
    """Yield the scores of each kernel in the canonical layout, one after the other."""
    by_kernel = {}
    if needs_gradients(criterion):
        if gradients is None:
            raise ValueError(
                "Expected `gradients`, which the criterion needs, as "
                "`layers.kernel_gradients(model, x, y)` gives them. Received: None."
            )
        by_kernel = dict(zip(layers.kernels(model), gradients, strict=True))
    for kernel in chosen:
        score = criterion
        if hasattr(criterion, "for_kernel"):
            score = criterion.for_kernel(kernel)
        values = score(kernel.weights, by_kernel.get(kernel))
        values = np.where(kernel.mask, values, np.float32(-np.inf))
        yield kernel.layout.canonical(values)


def _stand_in(kernel):
    """An array of the kernel's canonical shape that takes no memory."""
    return np.broadcast_to(np.float32(0), kernel.layout.shape)
