import os
import warnings
from math import isnan
from typing import Any

import keras

from keras_micronets import _keras_private
from keras_micronets._serialization import Configurable, serializable
from keras_micronets.callbacks.base import (
    begin_run_of_fit,
    best_is_highest,
    check_fraction,
    is_complete,
)
from keras_micronets.learners import LearnerPool
from keras_micronets.learners.members import add_members, check_members
from keras_micronets.learners.runs import Runs, check_run

__all__ = ["LearnerCheckpoint"]


@serializable()
class LearnerCheckpoint(Configurable, keras.callbacks.Callback):
    """Add the model to a pool of learners every few epochs.

    Of a `SideBySide` model, each member becomes a learner, such as
    `run-000-epoch-0040-member-1`, with its own metrics and seed.

    List it after the callbacks that prune and quantise. When `fit` begins, a copy of
    the model is saved and loaded on trial, and the name of the run is reserved in the
    pool, so several processes may train into one pool at once.

    A run that resumes with Keras's `BackupAndRestore`, also in a new process, is
    found by the folder of the backup, and adds no learner twice. Give each process its
    own backup folder. A `fit` with an `initial_epoch` and without
    `BackupAndRestore` continues the last run that ends at that epoch; if several
    processes resume in this way, give each its `run`.

    Args:
        pool: A `LearnerPool`, or the path of one.
        every: Integer, epochs between learners. Defaults to `1`.
        start: Float in [0, 1), the progress before which no learner is added.
            Defaults to `0.0`.
        keep: `"all"`, or `"best"` to keep only the learner of the best epoch among
            those at which the callbacks of the run have reached their final sparsity
            and quantisation; epochs before would win by being dense. Defaults to
            `"all"`.
        monitor: String, the metric by which `keep="best"` compares epochs. Defaults to
            `"val_accuracy"`.
        mode: `"max"`, `"min"` or `"auto"`, as for `AccuracyGuard`. Defaults to
            `"auto"`.
        run: String, the name of the run within the pool. A run that is repeated under
            its name replaces damaged learners and adds missing ones. `None` for the
            run that `fit` resumes, or else the next free number. Defaults to `None`.
        seed: Integer, the seed of the run, saved with each learner; members of a
            `SideBySide` model have their own. Defaults to `None`, unknown.
        from_logits: Boolean, whether the model returns logits. `None` to infer it as
            `LearnerPool.add` does. Defaults to `None`.
        task, output: What the model predicts, and which of several outputs to use; see
            `LearnerPool.add`. Default to `None`.
        verbose: Integer, 1 to print a line for each learner. Defaults to `0`.

    Raises:
        ValueError: When `fit` begins, if `every` or `start` is out of its range, the
            model cannot be saved and loaded, `run` cannot be part of a file's name, or
            another process is training a run of this name.

    Example:

    ```python
    pool = keras_micronets.LearnerPool("pool")
    checkpoint = keras_micronets.callbacks.LearnerCheckpoint(pool, every=2)
    model.fit(x, y, epochs=6, callbacks=[checkpoint])
    len(pool)  # 3
    ```
    """

    params: dict[str, Any]
    _model: Any

    def __init__(
        self,
        pool: LearnerPool | str | os.PathLike,
        every: int = 1,
        *,
        start: float = 0.0,
        keep: str = "all",
        monitor: str = "val_accuracy",
        mode: str = "auto",
        run: str | None = None,
        seed: int | None = None,
        from_logits: bool | None = None,
        task: str | None = None,
        output: str | int | None = None,
        verbose: int = 0,
    ):
        super().__init__()
        self.pool = pool if isinstance(pool, LearnerPool) else LearnerPool(pool)
        self.every = every
        self.start = start
        self.keep = keep
        self.monitor = monitor
        self.mode = mode
        self.run = run
        self.seed = seed
        self.from_logits = from_logits
        self.task = task
        self.output = output
        self.verbose = verbose

    def argument(self, name: str) -> Any:
        return str(self.pool.path) if name == "pool" else super().argument(name)

    def on_train_begin(self, logs: dict | None = None) -> None:
        if self.every < 1:
            raise ValueError(
                f"Expected `every` to be 1 or more epochs. Received: {self.every}."
            )
        check_fraction("start", self.start)
        if self.keep not in ("all", "best"):
            raise ValueError(
                f"Expected `keep` to be 'all' or 'best'. Received: {self.keep!r}."
            )
        self._sign = 1.0 if best_is_highest(self.monitor, self.mode) else -1.0
        self._callbacks = _keras_private.callbacks_of_fit()
        check_run(self.run, f"-epoch-{self.params['epochs']:04d}-member-999")
        check_members(self.pool, self.model, task=self.task, output=self.output)
        self._run: Any = None

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        if self._run is None:
            self._run = begin_run_of_fit(self, epoch)
            self._warn_if_none(epoch + 1, self.params["epochs"])

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        done = epoch + 1
        if not self._is_due(done):
            return
        earlier = []
        if self.keep == "best":
            earlier = [learner for learner in self.pool if learner.run == self._run]
            if not self._is_better(logs or {}, earlier):
                return
        name = f"{self._run}-epoch-{done:04d}"
        for learner in add_members(
            self.pool,
            self.model,
            name=name,
            logs=logs,
            run=self._run,
            epoch=done,
            seed=self.seed,
            from_logits=self.from_logits,
            task=self.task,
            output=self.output,
        ):
            if self.verbose:
                print(f"\nLearner {learner.name}: sparsity {learner.sparsity:.3f}")
        for learner in earlier:
            self.pool.remove(learner.name)

    def on_train_end(self, logs: dict | None = None) -> None:
        if self._run is not None:
            Runs(self.pool.path).finish(self._run)

    def _is_better(self, logs, earlier):
        """Return whether an epoch is better than the one whose learners are kept."""
        if self.monitor not in logs:
            raise ValueError(
                f"Expected `monitor` to be one of the metrics {sorted(logs)} of every "
                f"epoch. Received: monitor={self.monitor!r}."
            )
        # A metric that was not a number is not saved.
        before = [learner.metrics.get(self.monitor) for learner in earlier]
        if None in before:
            return not isnan(float(logs[self.monitor]))
        best = sum(before) / len(before) if before else None
        return best is None or self._sign * (float(logs[self.monitor]) - best) > 0

    def _is_due(self, done):
        progress = done / self.params["epochs"]
        complete = self.keep == "all" or is_complete(self._callbacks, progress)
        return done % self.every == 0 and progress >= self.start and complete

    def _warn_if_none(self, first, last):
        if not any(map(self._is_due, range(first, last + 1))):
            warnings.warn(
                f"{self!r} adds no learner in epochs {first} to {last} of this `fit`. "
                "Decrease `every` or `start`, or train longer.",
                stacklevel=2,
            )
