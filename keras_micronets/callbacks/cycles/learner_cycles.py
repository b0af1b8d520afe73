import os
from typing import Any

import keras
import numpy as np

from keras_micronets import layers
from keras_micronets._serialization import serializable
from keras_micronets.callbacks.base import ProgressCallback, begin_run_of_fit
from keras_micronets.callbacks.cycles.cycle import Cycle, Parent, warn_if_untrained
from keras_micronets.callbacks.cycles.masks import Magnitude
from keras_micronets.callbacks.cycles.optimizer_rate import OptimizerRate
from keras_micronets.callbacks.cycles.recipes import PublishedCycles
from keras_micronets.channels.cut import compact
from keras_micronets.layers.optimizer_slots import reset_slots
from keras_micronets.layers.scope import warn_of_frozen
from keras_micronets.learners import LearnerPool
from keras_micronets.learners.members import add_members, check_members
from keras_micronets.learners.runs import Runs, check_run
from keras_micronets.learning_rates import as_learning_rate
from keras_micronets.selection.report.selection_report import difference

__all__ = ["LearnerCycles"]


def _forward(hook):
    def call(self: "LearnerCycles", *args: Any, **kwargs: Any) -> None:
        getattr(self._inner, hook)(*args, **kwargs)

    return call


@serializable()
class LearnerCycles(ProgressCallback, PublishedCycles):
    """Train several learners in one `fit`, one per cycle, and add them to a pool.

    The first part of the run, the warm-up, trains one model, the parent. The rest is
    divided into equal cycles of whole epochs. Each cycle starts with empty optimizer
    slots, from the parent or from the previous learner, may set masks and the
    learning rate, and ends with a learner in the pool. Published methods are
    `LearnerCycles.prune2edge`, `snapshot`, `free_tickets` and `prune_and_tune`; a
    custom `Cycle` is another.

    With Keras's `BackupAndRestore` a run that was killed resumes in the same cycle:
    masks depend on the seed and the cycle only, and the parent is saved in the folder
    of the pool. As for `LearnerCheckpoint`, its run is found by the folder of the
    backup, names of runs are reserved, and a model that cannot be saved stops `fit`
    when it begins.

    Each cycle of a `SideBySide` model ends with a learner for each of its members.
    Mask samplers are called with each member and a seed of its own.

    Where the cycles have a learning rate, the optimizer has its compiled one again when
    `fit` ends; after an exception, when the next `fit` with cycles does. A model that
    was saved during `fit` has the learning rate of that moment: compile it again.

    At the end of each epoch `logs["sparsity"]` is the share of removed weights. With
    `validation_data`, `logs["disagreement"]` is the mean share of samples on which the
    newest learner and another learner of the pool predict different classes; for
    numbers, the root mean square difference of their predictions as a share of the
    standard deviation of all predictions. It is not a number until there are two
    learners. List this callback before the loggers that record them.

    Args:
        pool: A `LearnerPool`, or the path of one.
        n_learners: Integer, the number of cycles.
        cycle: A `Cycle`. `None` for `Cycle()`, which continues from the previous
            learner. Defaults to `None`.
        warmup: Float in [0, 1), the share of the run that trains the parent; epochs
            that do not divide among the cycles are added to it. 0 if the model given
            to `fit` is the parent. Defaults to `0.0`.
        warmup_learning_rate: The learning rate of the warm-up, as in `Cycle`; a Keras
            schedule counts the steps of the warm-up. Defaults to `None`.
        callbacks: Callbacks that act during the whole run, before this one, such as
            `DynamicSparseTraining` or `WeightPruning`. Defaults to `()`.
        validation_data: A pair `(x, y)`, or `x` alone, to measure disagreement on.
            `None` not to measure it. Defaults to `None`.
        run: String, the name of the run within the pool, as for `LearnerCheckpoint`.
            Defaults to `None`.
        seed: Integer, for the masks. Defaults to `0`.
        task, output: What the model predicts, and which of several outputs to use; see
            `LearnerPool.add`. Default to `None`.

    Raises:
        ValueError: When `fit` begins, if it has fewer epochs than cycles, or a
            learning rate is given and the optimizer was compiled with a schedule.

    Warns:
        UserWarning: When the first cycle begins, if it needs a trained parent and the
            model is new.

    Example:

    ```python
    pool = keras_micronets.LearnerPool("pool")
    cycle = keras_micronets.callbacks.Cycle(
        initial="parent",
        mask=keras_micronets.callbacks.masks.Magnitude(0.5, noise=0.5),
        learning_rate=keras_micronets.learning_rates.OneCycle(1e-3),
    )
    cycles = keras_micronets.callbacks.LearnerCycles(pool, 2, cycle, warmup=0.5)
    model.fit(x, y, epochs=4, callbacks=[cycles])
    ```
    """

    def __init__(
        self,
        pool: LearnerPool | str | os.PathLike,
        n_learners: int,
        cycle: Cycle | None = None,
        *,
        warmup: float = 0.0,
        warmup_learning_rate: Any = None,
        callbacks: list[keras.callbacks.Callback] | tuple = (),
        validation_data: tuple | np.ndarray | None = None,
        run: str | None = None,
        seed: int = 0,
        task: str | None = None,
        output: str | int | None = None,
    ):
        super().__init__()
        self.pool = pool if isinstance(pool, LearnerPool) else LearnerPool(pool)
        self.n_learners = n_learners
        self.cycle = cycle or Cycle()
        self.warmup = warmup
        self.warmup_learning_rate = warmup_learning_rate
        self.callbacks = callbacks
        self.validation_data = validation_data
        self.run = run
        self.seed = seed
        self.task = task
        self.output = output

    def argument(self, name: str) -> Any:
        return str(self.pool.path) if name == "pool" else super().argument(name)

    def prepare(self, model: keras.Model) -> None:
        quantize = self.cycle.quantize is not None
        rates = self.warmup_learning_rate, self.cycle.learning_rate
        # Before `BackupAndRestore` restores the rate of the batch that was interrupted.
        is_set = any(rate is not None for rate in rates)
        self._rate = OptimizerRate(model.optimizer) if is_set else None
        if quantize or self.cycle.mask is not None:
            layers.prepare(model, quantize=quantize).warn()
        mask: Any = self.cycle.mask
        if hasattr(mask, "prepare"):
            for member in layers.members_of(model):
                mask.prepare(member)
        if hasattr(mask, "scope"):
            warn_of_frozen(model, mask.scope)

    def set_model(self, model: keras.Model) -> None:
        self._inner_logs = _Logs()
        self._inner: Any = keras.callbacks.CallbackList(
            [*self.callbacks, self._inner_logs]
        )
        self._inner.set_params(self.params)
        super().set_model(model)
        self._inner.set_model(model)

    def set_params(self, params: dict[str, Any]) -> None:
        super().set_params(params)
        if hasattr(self, "_inner"):
            self._inner.set_params(params)

    def on_train_begin(self, logs: dict | None = None) -> None:
        super().on_train_begin(logs)
        self._start, self._every = self._plan(self.params["epochs"])
        check_run(self.run, f"-cycle-{self.n_learners:03d}-member-999")
        check_members(
            self.pool,
            self.model,
            compact=self._compact,
            task=self.task,
            output=self.output,
        )
        self._run: Any = None
        self._is_quantized = False  # unknown after an interrupted run
        self._disagreement = float("nan")
        steps, compiled = self.steps_per_epoch, self._rate and self._rate.compiled
        self._warmup_rate, self._cycle_rate = (
            as_learning_rate(rate, steps and epochs * steps, compiled or 1.0)
            for rate, epochs in (
                (self.warmup_learning_rate, self._start),
                (self.cycle.learning_rate, self._every),
            )
        )
        self._inner.on_train_begin(logs)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        if self._run is None:
            self._run = begin_run_of_fit(self, epoch)
        self._index, done = divmod(epoch - self._start, self._every)
        if self._index >= 0 and done == 0:
            self._begin_cycle(self.model)
        self._inner.on_epoch_begin(epoch, logs)
        super().on_epoch_begin(epoch, logs)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self._inner.on_train_batch_end(batch, logs)
        super().on_train_batch_end(batch, logs)

    def on_progress(self, step: int, progress: float) -> None:
        steps = self.steps_per_epoch
        epochs = step / steps if steps else step - 1
        if self._index < 0:
            self._set_learning_rate(self._warmup_rate, epochs / self._start)
            return
        # The last batch of a cycle ends it, though the next begins at the same step.
        done = min(1.0, (epochs - self._start) / self._every - self._index)
        self._set_learning_rate(self._cycle_rate, done)
        start = self.cycle.quantize
        if start is not None and done >= start and not self._is_quantized:
            layers.set_quantizers(self.model, True)
            self._is_quantized = True

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        logs = {} if logs is None else logs
        self._inner.on_epoch_end(epoch, logs)
        logs.update(self._inner_logs.logs)
        model = self.model
        layers.write_zeros(model)
        done = epoch + 1 - self._start
        if done > 0 and done % self._every == 0:
            self._end_cycle(model, epoch + 1, logs)
        logs["sparsity"] = layers.sparsity(model)
        if self.validation_data is not None:
            logs["disagreement"] = self._disagreement

    def on_train_end(self, logs: dict | None = None) -> None:
        self._inner.on_train_end(logs)
        layers.write_zeros(self.model)
        if self._rate is not None:
            self._rate.give_back(self.model)
        if self._run is not None:
            Runs(self.pool.path).finish(self._run)

    on_train_batch_begin = _forward("on_train_batch_begin")
    on_test_begin = _forward("on_test_begin")
    on_test_batch_begin = _forward("on_test_batch_begin")
    on_test_batch_end = _forward("on_test_batch_end")
    on_test_end = _forward("on_test_end")
    on_predict_begin = _forward("on_predict_begin")
    on_predict_batch_begin = _forward("on_predict_batch_begin")
    on_predict_batch_end = _forward("on_predict_batch_end")
    on_predict_end = _forward("on_predict_end")

    def _plan(self, epochs):
        """Return the epoch at which the cycles begin, and the epochs of each."""
        if not 0.0 <= self.warmup < 1.0:
            raise ValueError(
                "Expected `warmup` in [0, 1), a fraction of the run. "
                f"Received: warmup={self.warmup}."
            )
        if epochs == 0:  # `fit(epochs=0)` trains no learner
            return 0, 1
        every = int(round(epochs * (1.0 - self.warmup) / self.n_learners, 6))
        if every < 1:
            raise ValueError(
                "Expected at least one epoch for each learner. Received: epochs="
                f"{epochs}, n_learners={self.n_learners}, warmup={self.warmup}. "
                "Train longer, or decrease `warmup` or `n_learners`."
            )
        return epochs - every * self.n_learners, every

    def _begin_cycle(self, model):
        self._is_quantized = False
        if self._index == 0:
            self._begin_first_cycle(model)
        if self.cycle.initial == "parent":
            parent = Parent(self.pool.path / "parents" / f"{self._run}.npz")
            parent.restore(model) if self._index else parent.save(model)
        if self.cycle.quantize is not None:
            layers.set_quantizers(model, False)
        if self.cycle.mask is not None:
            for member, seed in zip(*_members_and_seeds(model, self.seed), strict=True):
                self.cycle.mask(member, self._index, seed)
        reset_slots(model)

    def _begin_first_cycle(self, model):
        needs_parent = isinstance(self.cycle.mask, Magnitude)
        if self._start == 0 and (needs_parent or self.cycle.initial == "parent"):
            warn_if_untrained(model)
        if self._rate is not None:  # the warm-up's is not that of the cycles
            self._rate.give_back(model)

    def _end_cycle(self, model, epoch, logs):
        name = f"{self._run}-cycle-{self._index:03d}"
        add_members(
            self.pool,
            model,
            name=name,
            logs=logs,
            seed=self.seed,
            compact=self._compact,
            run=self._run,
            epoch=epoch,
            origin=repr(self.cycle),
            task=self.task,
            output=self.output,
        )
        if self.validation_data is not None and len(self.pool) > 1:
            self._disagreement = self._disagreement_at(epoch)

    @property
    def _compact(self):
        return compact if self.cycle.compact else None

    def _disagreement_at(self, epoch):
        data: Any = self.validation_data
        x = data[0] if isinstance(data, tuple) else data
        matrix = difference(self.pool.predict(x, verbose=0), self.pool[0].task)
        rows = [
            row
            for row, learner in enumerate(self.pool)
            if (learner.run, learner.epoch) == (self._run, epoch)
        ]
        return float(np.mean([np.delete(matrix[row], row).mean() for row in rows]))

    def _set_learning_rate(self, rate, progress):
        # The last rate may be zero, which a model that is saved then would keep.
        if rate is not None and self._rate is not None and progress < 1.0:
            self._rate.set(self.model, rate(progress))


class _Logs(keras.callbacks.Callback):
    """Keep the logs of an epoch, to which the callbacks before it have added."""

    def on_epoch_end(self, epoch, logs=None):
        self.logs = logs or {}


def _members_and_seeds(model, seed):
    """Return the members of a model, and a seed for each; the first has the seed."""
    members = layers.members_of(model)
    others = [np.random.SeedSequence((seed, i)) for i in range(1, len(members))]
    return members, [seed, *(int(one.generate_state(1)[0]) for one in others)]
