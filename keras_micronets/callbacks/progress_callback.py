import keras


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
