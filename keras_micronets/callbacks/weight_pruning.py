import warnings
from collections.abc import Callable
from typing import Any

import keras

from keras_micronets._serialization import serializable
from keras_micronets.callbacks.accuracy_guard import AccuracyGuard
from keras_micronets.callbacks.base import SparsityCallback, warn_of_early_best
from keras_micronets.callbacks.mask_updates import prune
from keras_micronets.layers.scope import ScopeFunction, select_kernels
from keras_micronets.schedules import as_schedule
from keras_micronets.sparsity import (
    Pattern,
    as_allocation,
    as_importance,
    needs_gradients,
)

__all__ = ["WeightPruning"]


@serializable()
class WeightPruning(SparsityCallback):
    """Remove weights of a model while it trains.

    When `fit` begins, the layers that have kernels are prepared in place. From then on
    their masks follow the schedule; the forward pass and every saved file are sparse.
    Sparsity never decreases, unless a guard steps back: if the model is already sparser
    than the schedule, as in a second `fit` or a run that resumes, it stays so. Layers
    that are not trained are left alone, and named in a warning.

    The sparsity asked for is that of the kernels in `scope`. By default these are not
    all, so the whole model ends less sparse. At the end of each epoch,
    `logs["scope_sparsity"]` is the share of removed weights of the kernels in scope,
    `logs["sparsity"]` that of the whole model; list this callback before the loggers
    that record them. To treat layers differently, give `fit` one `WeightPruning` for
    each `scope`.

    Each output of a kernel keeps a weight, and each input where enough weights are
    left, so that no layer is disconnected; small kernels may therefore end below the
    sparsity asked for. Kernels that lose more than 99 % are named in a warning.

    `EarlyStopping` and `ModelCheckpoint` compare epochs before the final sparsity with
    those after it; `fit` warns of them. Use `LearnerCheckpoint(pool, keep="best")`.

    Args:
        schedule: The sparsity to reach, a float in [0, 1), along
            `schedules.PolynomialDecay`; or sparsity as a function of progress in
            [0, 1]: one of `keras_micronets.schedules`, or any callable; or a
            schedule of `keras.optimizers.schedules` or of tfmot, which is called with
            the number of batches since the first epoch of the run.
        pattern: The groups of weights that are removed together:
            `sparsity.Unstructured()`, `sparsity.NofM(2, 4)`, `sparsity.Block(4)` or
            `sparsity.Channels()`; the sparsity of each kernel is met within half a
            block or channel. `None` for single weights. Defaults to `None`.
        scope: `layers.Scope`, or any function from a model to kernels. `None` for
            `Scope()`: without the first, the last and small kernels, if they hold a
            small part of the weights. Defaults to `None`.
        importance: Which weights are removed first: those of smallest `"magnitude"`,
            `"random"` ones, those that change the loss least (`"taylor"`) or whose
            magnitude training decreases (`"movement"`), which both need `data`; or a
            function `(weights, gradients) -> scores`. `None` for `"magnitude"`.
            Defaults to `None`.
        data: Data to compute gradients on, a batch per update, repeatedly: a tuple of
            arrays `(x, y)` or an iterable of batches such as a dataset (see
            `layers.batches`). Defaults to `None`.
        allocation: How the sparsity is divided: `"uniform"` removes the same share of
            each kernel, `"global"` the lowest scores of all kernels together, `"erk"`
            a smaller share of small kernels (Erdos-Renyi-Kernel); or a function as in
            `keras_micronets.sparsity`. `None` for `"uniform"`. Defaults to `None`.
        frequency: Integer, batches between updates; there is always one after the
            last batch of an epoch. `None` for a hundred updates per run. A tfmot
            schedule has its own. Defaults to `None`.
        guard: `AccuracyGuard`, which holds the sparsity back while a metric is worse
            than its best. Defaults to `None`.
        seed: Integer, for random importance and the order of `data`. Defaults to `0`.

    Raises:
        TypeError: When `fit` begins, if the schedule is none of these.
        ValueError: When `fit` begins, if the schedule leaves [0, 1), an argument is
            invalid, or the model is not built or has nothing to prune.

    Example:

    ```python
    pruning = keras_micronets.callbacks.WeightPruning(
        keras_micronets.schedules.PolynomialDecay(0.0, 0.8)
    )
    model.fit(x, y, epochs=2, callbacks=[pruning])
    ```

    Reference: Zhu and Gupta 2017, "To prune, or not to prune: exploring the
    efficacy of pruning for model compression".
    """

    def __init__(
        self,
        schedule: Any,
        *,
        pattern: Pattern | None = None,
        scope: ScopeFunction | None = None,
        importance: str | Callable | None = None,
        data: Any = None,
        allocation: str | Callable | None = None,
        frequency: int | None = None,
        guard: AccuracyGuard | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.schedule = schedule
        self.pattern = pattern
        self.scope = scope
        self.importance = importance
        self.data = data
        self.allocation = allocation
        self.frequency = frequency
        self.guard = guard
        self.seed = seed

    def prepare(self, model: keras.Model) -> None:
        super().prepare(model)
        self._schedule: Any = None

    def on_train_begin(self, logs: dict | None = None) -> None:
        super().on_train_begin(logs)
        if self.params["epochs"]:  # `fit(epochs=0)` takes no value of the schedule
            self._resolve()
        self._importance = as_importance(self.importance, seed=self.seed)
        self._sparsity = 0.0
        warn_of_early_best(self)

    def _resolve(self):
        if self._schedule is None:
            known = self.steps_per_epoch is not None
            steps = self.total_steps if known else None
            self._schedule = as_schedule(self.schedule, steps)
        return self._schedule

    def completes_at(self, progress: float) -> bool:
        schedule = self._resolve()
        return abs(schedule(progress) - schedule(1.0)) < 1e-6

    def on_progress(self, step: int, progress: float) -> None:
        if self.guard is not None and self.is_first:
            self.guard.begin(step, self.scope_sparsity(self.model))
        super().on_progress(step, progress)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if self.guard is not None and logs is not None:
            chosen = select_kernels(self.model, self.scope)
            self.guard.judge(self.model, chosen, self._sparsity, logs)
        super().on_epoch_end(epoch, logs)

    def on_train_end(self, logs: dict | None = None) -> None:
        super().on_train_end(logs)
        _warn_of_nearly_empty(select_kernels(self.model, self.scope))

    def is_due(self, step: int) -> bool:
        if hasattr(self._schedule, "is_due"):
            return self._schedule.is_due(step / self.total_steps)
        ends_epoch = step % (self.params["steps"] or 1) == 0
        return ends_epoch or step % self._frequency == 0

    def update(self, step: int, progress: float) -> None:
        gradients = None
        if needs_gradients(self._importance):
            gradients = self.gradients(step // self._frequency)
        self._sparsity = self._schedule(progress)
        if self.guard is not None:
            self._sparsity = self.guard.limit(self._sparsity)
        prune(
            self.model,
            self._sparsity,
            pattern=self.pattern,
            scope=self.scope,
            importance=self._importance,
            gradients=gradients,
            allocation=self.allocation,
        )

    @property
    def _frequency(self):
        return self.frequency or max(1, self.total_steps // 100)

    def check(self) -> None:
        super().check()
        as_allocation(self.allocation or "uniform")
        self.require_data(as_importance(self.importance))
        if self.pattern is not None and not hasattr(self.pattern, "mask"):
            raise ValueError(
                "Expected `pattern` to be a value such as `sparsity.NofM(2, 4)`. "
                f"Received: pattern={self.pattern!r}."
            )


def _warn_of_nearly_empty(kernels):
    empty = [kernel.path for kernel in kernels if kernel.sparsity > 0.99]
    if empty:
        warnings.warn(
            f"{len(empty)} kernels have lost more than 99 % of their weights: "
            f"{', '.join(empty[:5])}. Lower the sparsity, or leave them out with "
            "`scope=layers.Scope(without=...)`.",
            stacklevel=3,
        )
