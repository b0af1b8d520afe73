import keras
import numpy as np

from keras_micronets import layers, selection
from keras_micronets.callbacks.base import ProgressCallback
from keras_micronets.callbacks.cycles.cycle import Cycle, Parent
from keras_micronets.callbacks.cycles.recipes import PublishedCycles
from keras_micronets.channels import compact
from keras_micronets.layers.optimizer_slots import reset_slots
from keras_micronets.learners import LearnerPool


class LearnerCycles(PublishedCycles, ProgressCallback):
    """Train many learners in one `fit`, a cycle each, and put them into a pool.

    The first part of the run trains one model, the parent. What remains is divided
    into equal cycles of whole epochs. Each begins with fresh optimizer slots, from
    the parent or from the learner before, may draw a mask, steers the learning rate
    and ends with a learner in the pool. The published ways to get many learners from
    one run are `LearnerCycles.prune2edge`, `snapshot`, `free_tickets` and
    `prune_and_tune`; a `Cycle` of your own is another.

    With Keras's `BackupAndRestore` a run that was killed goes on in the cycle it was
    in: draws depend on the seed and the cycle alone, and the parent is kept in the
    pool's folder.

    At the end of each epoch `logs["sparsity"]` is the share of weights removed. With
    `validation_data`, `logs["disagreement"]` is the newest learner's: the mean share of
    samples on which it answers otherwise than another learner of the pool; not a
    number before there are two. List this callback before the loggers that shall
    show it.

    Args:
        pool: A `LearnerPool`.
        n_learners: Integer, the number of cycles.
        cycle: A `Cycle`. `None` for one that goes on from the learner before and
            changes nothing else. Defaults to `None`.
        explore: Float in [0, 1), the share of the run that trains the parent; epochs
            that do not divide among the cycles are added to it. 0 when the model
            given to `fit` is the parent. Defaults to `0.0`.
        explore_rate: The learning rate over that part, as in `Cycle`. `None` to leave
            it to the optimizer. Defaults to `None`.
        during: Another callback that sparsifies over the whole run, such as
            `DynamicSparseTraining` or `WeightPruning`. Defaults to `None`.
        validation_data: The pair `(x, y)` that `fit` has, or `x` alone, to measure
            disagreement on. `None` to measure none. Defaults to `None`.
        run: String that names the run within the pool, as for `LearnerCheckpoint`.
            Defaults to `None`.
        seed: Integer that the masks are drawn by. Defaults to `0`.

    Raises:
        ValueError: When `fit` begins, if it has fewer epochs than cycles, or a
            learning rate is to be steered and the optimizer was built with a
            schedule.

    Example:

    ```python
    pool = keras_micronets.LearnerPool("pool")
    rates, draws = keras_micronets.learning_rates, keras_micronets.callbacks.masks
    cycle = keras_micronets.callbacks.Cycle(
        start="parent", draw=draws.Magnitude(0.5, tilt=0.5),
        learning_rate=rates.OneCycle(1e-3),
    )
    model.fit(x, y, epochs=40, callbacks=[
        keras_micronets.callbacks.LearnerCycles(pool, 4, cycle, explore=0.5),
    ])
    ```
    """

    def __init__(
        self,
        pool: LearnerPool,
        n_learners: int,
        cycle: Cycle | None = None,
        *,
        explore: float = 0.0,
        explore_rate=None,
        during: keras.callbacks.Callback | None = None,
        validation_data: tuple | np.ndarray | None = None,
        run: str | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.pool = pool
        self.n_learners = n_learners
        self.cycle = cycle or Cycle()
        self.explore = explore
        self.explore_rate = explore_rate
        self.during = during
        self.validation_data = validation_data
        self.run = run
        self.seed = seed

    def set_params(self, params):
        super().set_params(params)
        self._forward("set_params", params)

    def set_model(self, model):
        super().set_model(model)
        quantize = self.cycle.quantize is not None
        if quantize or self.cycle.draw is not None:
            layers.prepare(model, quantize=quantize).warn()
        self._forward("set_model", model)

    def on_train_begin(self, logs=None):
        self._begin, self._every = self._plan(self.params["epochs"])
        self._run, self._disagreement = self.run, float("nan")
        if (self.explore_rate or self.cycle.learning_rate) is not None:
            _check_steerable(self.model.optimizer)
        self._forward("on_train_begin", logs)

    def on_epoch_begin(self, epoch, logs=None):
        if self._run is None:
            self._run = self.pool.last_run() if epoch else self.pool.next_run()
        self._index, done = divmod(epoch - self._begin, self._every)
        if self._index >= 0 and done == 0:
            self._begin_cycle(self.model)
        self._forward("on_epoch_begin", epoch, logs)
        super().on_epoch_begin(epoch, logs)

    def on_train_batch_end(self, batch, logs=None):
        self._forward("on_train_batch_end", batch, logs)
        super().on_train_batch_end(batch, logs)

    def on_progress(self, step, progress):
        epochs = step / self.params["steps"] if self.params["steps"] else step - 1
        if self._index < 0:
            self._set_rate(self.explore_rate, epochs / self._begin)
            return
        # A cycle's last batch ends it, though the next begins at the same step.
        done = min(1.0, (epochs - self._begin) / self._every - self._index)
        self._set_rate(self.cycle.learning_rate, done)
        start = self.cycle.quantize
        if start is not None and done >= start and not self._is_quantized:
            layers.set_quantizers(self.model, True)
            self._is_quantized = True

    def on_epoch_end(self, epoch, logs=None):
        self._forward("on_epoch_end", epoch, logs)
        model = self.model
        layers.write_zeros(model)
        done = epoch + 1 - self._begin
        if done > 0 and done % self._every == 0:
            self._end_cycle(model, epoch + 1, logs or {})
        if logs is not None:
            logs["sparsity"] = layers.sparsity(model)
            if self.validation_data is not None:
                logs["disagreement"] = self._disagreement

    def on_train_end(self, logs=None):
        self._forward("on_train_end", logs)
        layers.write_zeros(self.model)

    def _forward(self, hook, *arguments):
        if self.during is not None:
            getattr(self.during, hook)(*arguments)

    def _plan(self, epochs):
        """Return the epoch at which the cycles begin, and the epochs of each."""
        if not 0.0 <= self.explore < 1.0:
            raise ValueError(
                "Expected `explore` in [0, 1), a fraction of the run. "
                f"Received: explore={self.explore}."
            )
        every = int(round(epochs * (1.0 - self.explore) / self.n_learners, 6))
        if every < 1:
            raise ValueError(
                "Expected an epoch or more for each learner. Received: epochs="
                f"{epochs}, n_learners={self.n_learners}, explore={self.explore}. "
                "Train longer, explore less, or ask for fewer learners."
            )
        return epochs - every * self.n_learners, every

    def _begin_cycle(self, model):
        self._is_quantized = False
        if self.cycle.start == "parent":
            parent = Parent(self.pool.path / "parents" / f"{self._run}.npz")
            parent.restore(model) if self._index else parent.save(model)
        if self.cycle.quantize is not None:
            layers.set_quantizers(model, False)
        if self.cycle.draw is not None:
            self.cycle.draw(model, self._index, self.seed)
        reset_slots(model)

    def _end_cycle(self, model, epoch, logs):
        name = f"{self._run}-cycle-{self._index:03d}"
        if name not in self.pool:
            self.pool.add(
                compact(model) if self.cycle.compact else model,
                name=name,
                run=self._run,
                epoch=epoch,
                seed=self.seed,
                metrics={key: float(value) for key, value in logs.items()},
                origin=repr(self.cycle),
            )
        if self.validation_data is not None and len(self.pool) > 1:
            self._disagreement = self._disagreement_of(name)

    def _disagreement_of(self, name):
        data = self.validation_data
        x = data[0] if isinstance(data, tuple) else data
        matrix = selection.disagreement(self.pool.predict(x, verbose=0))
        row = [learner.name for learner in self.pool].index(name)
        return float(np.delete(matrix[row], row).mean())

    def _set_rate(self, rate, progress):
        if rate is not None:
            self.model.optimizer.learning_rate = rate(progress)


def _check_steerable(optimizer):
    config = optimizer.get_config()
    config = config.get("inner_optimizer", {}).get("config", config)
    if isinstance(config["learning_rate"], dict):
        raise ValueError(
            "Expected an optimizer with a plain learning rate, which the cycles can "
            f"set. Received: {optimizer.name!r} with the schedule "
            f"{config['learning_rate']['class_name']}. Compile with a number, or give "
            "the cycles no learning rate."
        )
