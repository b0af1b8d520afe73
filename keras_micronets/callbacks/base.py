import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from keras_micronets import _keras_private, layers
from keras_micronets._serialization import Configurable
from keras_micronets.layers.scope import ScopeFunction, select_kernels, warn_of_frozen
from keras_micronets.learners.runs import begin_run

__all__ = ["ProgressCallback", "SparsityCallback"]


class ProgressCallback(Configurable, keras.callbacks.Callback):
    """Base class of the callbacks that act at a progress of the run.

    Calls `on_progress(step, progress)` when an epoch begins and after each batch
    (each `steps_per_execution` batches). `step` counts the batches of the run from its
    first epoch, `initial_epoch` included, and `progress` increases from 0 to 1. If
    Keras does not know the number of batches, it is called once per epoch, with the
    progress at the end of that epoch.
    """

    params: dict[str, Any]
    _model: Any

    def prepare(self, model: keras.Model) -> None:
        """Check the arguments and prepare the model, in place, when `fit` begins.

        `fit` does this itself. Call it if the prepared model is needed before `fit`.
        """

    def on_progress(self, step: int, progress: float) -> None:
        """Act at a progress of the run."""
        raise NotImplementedError

    def completes_at(self, progress: float) -> bool:
        """Return whether the model is as sparse and quantised as it will be."""
        return True

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        # Before `fit` compiles its step and other callbacks restore weights. But
        # `predict` and `evaluate` call this too: only `fit` gives a new history.
        history = getattr(model, "history", None)
        self._is_prepared = history is not None and not hasattr(history, "epoch")
        if self._is_prepared:
            self.prepare(model)

    def on_train_begin(self, logs: dict | None = None) -> None:
        if not self._is_prepared:  # `fit` was given a `History` or `CallbackList`
            self.prepare(self.model)
            if getattr(self.model, "compiled", False):
                self.model.make_train_function()
            self._is_prepared = True

    @property
    def steps_per_epoch(self) -> int | None:
        """Number of batches of an epoch; `None` if it is not known."""
        return self.params["steps"]

    @property
    def total_steps(self) -> int:
        """Number of batches of the whole run; of epochs if they are not known."""
        return self.params["epochs"] * (self.params["steps"] or 1)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._epoch, steps = epoch, self.params["steps"]
        self._report(epoch + 1 if steps is None else epoch * steps)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        steps = self.params["steps"]
        if steps is not None:
            # With several steps an execution, the last may count beyond the epoch.
            self._report(self._epoch * steps + min(batch + 1, steps))

    def _report(self, step):
        self.on_progress(step, min(1.0, step / self.total_steps))


class SparsityCallback(ProgressCallback):
    """Base class of the callbacks that change masks at some steps of a run.

    Subclasses have these attributes.
    """

    scope: ScopeFunction | None
    importance: Any = None
    data: Any
    frequency: int | None
    seed: int

    def check(self) -> None:
        """Raise a `ValueError` if an argument is unusable."""
        if self.frequency is not None and self.frequency < 1:
            raise ValueError(
                "Expected `frequency` to be 1 or more batches, or `None`. "
                f"Received: frequency={self.frequency}."
            )

    def require_data(self, importance: Callable) -> None:
        """Raise a `ValueError` if an importance needs gradients and has no data."""
        if getattr(importance, "needs_gradients", False) and self.data is None:
            raise ValueError(
                "Expected `data`, as a tuple `(x, y)`, on which the importance "
                "computes gradients. Received: data=None, "
                f"importance={self.importance!r}."
            )

    def is_due(self, step: int) -> bool:
        """Return whether the masks change at a step."""
        raise NotImplementedError

    def update(self, step: int, progress: float) -> None:
        """Change the masks of `self.model`."""
        raise NotImplementedError

    @property
    def is_first(self) -> bool:
        """Whether this is the first step since `fit` began or resumed."""
        return self._last_step is None

    def prepare(self, model: keras.Model) -> None:
        self.check()
        layers.prepare(model).warn()
        select_kernels(model, self.scope)
        warn_of_frozen(model, self.scope)

    def on_train_begin(self, logs: dict | None = None) -> None:
        super().on_train_begin(logs)
        self._batches: Iterator | None = None
        self._last_step: int | None = None

    def on_progress(self, step: int, progress: float) -> None:
        since = step if self._last_step is None else self._last_step + 1
        if any(self.is_due(due) for due in range(since, step + 1)):
            self.update(step, progress)
        self._last_step = step

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        model = self.model
        layers.write_zeros(model)
        if logs is not None:
            logs["sparsity"] = layers.sparsity(model)
            logs["scope_sparsity"] = self.scope_sparsity(model)

    def scope_sparsity(self, model: keras.Model) -> float:
        """Return the share of removed weights of the kernels in scope."""
        chosen = select_kernels(model, self.scope)
        removed = sum(kernel.size * kernel.sparsity for kernel in chosen)
        return removed / sum(kernel.size for kernel in chosen)

    def on_train_end(self, logs: dict | None = None) -> None:
        # Keras writes averaged weights before this hook, without the masks.
        layers.write_zeros(self.model)

    def gradients(self, n_before: int) -> list[np.ndarray]:
        """Return the gradients of all kernels on the next batch of `data`.

        Args:
            n_before: Integer, the number of batches that the run used before this
                `fit`; a run that resumes continues after them.
        """
        if self._batches is None:
            self._batches = layers.batches(self.data, seed=self.seed, start=n_before)
        return layers.kernel_gradients(self.model, *next(self._batches))


def best_is_highest(monitor: str, mode: str) -> bool:
    """Return whether high values of a metric are good.

    Args:
        monitor: Name of the metric.
        mode: `"max"`, `"min"` or `"auto"`, which infers it from the name.

    Raises:
        ValueError: If the mode is none of these.
    """
    if mode not in ("auto", "max", "min"):
        raise ValueError(
            f"Expected `mode` to be 'auto', 'max' or 'min'. Received: mode={mode!r}."
        )
    good = ("acc", "auc", "f1", "fbeta", "precision", "recall", "iou", "r2")
    highest = any(name in monitor.lower() for name in good)
    return mode == "max" or (mode == "auto" and highest)


def warn_of_early_best(callback: ProgressCallback) -> None:
    """Warn if a callback of the run may keep an epoch before the model is complete.

    Args:
        callback: The callback whose hook is called; the first of several warns.
    """
    callbacks, epochs = _keras_private.callbacks_of_fit(), callback.params["epochs"]
    if not epochs:  # `fit(epochs=0)` trains nothing
        return
    ours = [x for x in callbacks if isinstance(x, ProgressCallback)]
    ours = [x for x in ours if not x.completes_at(1 / epochs)]
    if not ours or ours[0] is not callback:
        return
    first = next(
        (e for e in range(epochs) if is_complete(ours, (e + 1) / epochs)), epochs
    )
    for other in callbacks:
        restores = getattr(other, "restore_best_weights", False)
        early = restores and getattr(other, "start_from_epoch", 0) < first
        if early or getattr(other, "save_best_only", False):
            warnings.warn(
                f"{type(other).__name__} may keep an epoch before the {first + 1}th, "
                f"from which the model is as sparse and quantised as it will be. Use "
                f"`EarlyStopping(start_from_epoch={first})`, or "
                '`LearnerCheckpoint(pool, keep="best")`.',
                stacklevel=3,
            )


def is_complete(callbacks: list, progress: float) -> bool:
    """Return whether all callbacks have reached their targets at a progress."""
    return all(getattr(x, "completes_at", lambda _: True)(progress) for x in callbacks)


def begin_run_of_fit(callback: Any, epoch: int) -> str:
    """Return the run of a callback with a `pool` and a `run`, as `begin_run` does.

    Args:
        callback: The callback, whose hook is called.
        epoch: Integer, the first epoch of this `fit`.
    """
    role, backup = role_and_backup(callback)
    return begin_run(callback.pool, callback.run, role=role, epoch=epoch, backup=backup)


def role_and_backup(callback: keras.callbacks.Callback) -> tuple[str, Any]:
    """Return what a run that resumes finds a callback and its files by.

    Args:
        callback: The callback, whose hook `fit` calls.

    Returns:
        Its class with its number among the callbacks of that class, and the folder of
        `BackupAndRestore`, `None` without one.
    """
    callbacks = _keras_private.callbacks_of_fit()
    same = [x for x in callbacks if type(x) is type(callback)]
    number = same.index(callback) if callback in same else 0
    backups = (x for x in callbacks if isinstance(x, keras.callbacks.BackupAndRestore))
    folder = next((x.backup_dir for x in backups), None)
    return f"{type(callback).__name__}-{number}", folder


def check_fraction(name: str, value: float) -> None:
    """Raise a `ValueError` unless a start lies in [0, 1)."""
    if not 0.0 <= value < 1.0:
        raise ValueError(
            f"Expected `{name}` in [0, 1), a fraction of the run. "
            f"Received: {name}={value}."
        )
