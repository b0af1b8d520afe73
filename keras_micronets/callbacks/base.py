import keras
import numpy as np

from keras_micronets import layers


class ProgressCallback(keras.callbacks.Callback):
    """Base of the callbacks that act at moments of a run.

    Calls `on_progress(step, progress)` when an epoch begins and after each batch
    (each `steps_per_execution` batches). `step` counts the run's batches from its
    very first epoch, `initial_epoch` included, and `progress` runs from 0 to 1.
    Where Keras does not know the number of batches, it is called once an epoch,
    with the progress that the epoch will end with.
    """

    def on_progress(self, step: int, progress: float) -> None:
        """Act on a moment of the run."""
        raise NotImplementedError

    @property
    def total_steps(self) -> int:
        """Number of batches of the whole run; of epochs if they are not known."""
        return self.params["epochs"] * (self.params["steps"] or 1)

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch
        known = self.params["steps"] is not None
        self._report(epoch * self.params["steps"] if known else epoch + 1)

    def on_train_batch_end(self, batch, logs=None):
        steps = self.params["steps"]
        if steps is not None:
            # With several steps an execution, the last may count beyond the epoch.
            self._report(self._epoch * steps + min(batch + 1, steps))

    def ends_epoch(self, step: int) -> bool:
        """Return whether an epoch ends with this step."""
        return step % (self.params["steps"] or 1) == 0

    def _report(self, step):
        self.on_progress(step, min(1.0, step / self.total_steps))


class SparsityCallback(ProgressCallback):
    """Base of the callbacks that change masks at some steps of a run.

    Subclasses have the attributes `scope`, `data` and `seed`.
    """

    def check(self) -> None:
        """Raise a `ValueError` or `TypeError` if an argument is unusable."""
        raise NotImplementedError

    def is_due(self, step: int) -> bool:
        """Return whether the masks change at a step."""
        raise NotImplementedError

    def update(self, step: int, progress: float) -> None:
        """Change the masks of `self.model`."""
        raise NotImplementedError

    @property
    def is_first(self) -> bool:
        """Whether `fit` has begun, or gone on, with this step."""
        return self._last_step is None

    def set_model(self, model):
        super().set_model(model)
        self.check()
        layers.prepare(model).warn()
        chosen_kernels(model, self.scope)

    def on_train_begin(self, logs=None):
        self._batches = self._last_step = None

    def on_progress(self, step, progress):
        since = step if self.is_first else self._last_step + 1
        if any(self.is_due(moment) for moment in range(since, step + 1)):
            self.update(step, progress)
        self._last_step = step

    def on_epoch_end(self, epoch, logs=None):
        model = self.model
        layers.write_zeros(model)
        if logs is not None:
            logs["sparsity"] = layers.sparsity(model)

    def on_train_end(self, logs=None):
        # Averaged weights, which Keras writes before this hook, know no mask.
        layers.write_zeros(self.model)

    def gradients(self, n_before: int) -> list[np.ndarray]:
        """Return the gradients of all kernels on the next batch of `data`.

        Args:
            n_before: Integer, the batches that a run has used before this `fit`
                takes its first: one that resumes goes on behind them.
        """
        if self._batches is None:
            self._batches = layers.batches(self.data, seed=self.seed, start=n_before)
        return layers.kernel_gradients(self.model, *next(self._batches))


def chosen_kernels(model: keras.Model, scope) -> list[layers.Kernel]:
    """Return the kernels of a prepared model that a scope chooses; `None` for all."""
    return layers.kernels(model) if scope is None else scope(model)
