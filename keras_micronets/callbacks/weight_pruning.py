from keras_micronets import layers
from keras_micronets.callbacks.progress_callback import ProgressCallback
from keras_micronets.schedules import as_schedule
from keras_micronets.sparsity import (
    allocate_over_model,
    allocate_per_layer,
    keep_largest,
    magnitude,
)

_ALLOCATIONS = {"layer": allocate_per_layer, "model": allocate_over_model}


class WeightPruning(ProgressCallback):
    """Remove the smallest weights of a model while it trains.

    The layers that have kernels are promoted in place when `fit` begins. From
    then on their masks follow the schedule; the forward pass is sparse at every
    moment, and so is every file that is saved. Sparsity never falls: in a second
    `fit`, or one that resumes, the larger of the schedule and what is there holds.
    At the end of each epoch, `logs["sparsity"]` is the share removed; list this
    callback before the loggers that shall show it.

    Args:
        schedule: Sparsity as a function of progress in [0, 1]: one of
            `keras_micronets.schedules`, any callable, or a
            `tfmot.sparsity.keras.PruningSchedule` as it is.
        scope: `"layer"` removes the same share of each kernel, `"model"` the
            smallest weights of all kernels together. Defaults to `"layer"`.
        frequency: Integer, batches between updates; an epoch's last batch always
            has one. `None` for a hundred updates a run. A tfmot schedule brings its
            own. Defaults to `None`.

    Raises:
        TypeError: When `fit` begins, if the schedule is not callable.
        ValueError: When `fit` begins, if the schedule leaves [0, 1), the scope or
            the frequency is none of these, or the model is not built or has
            nothing to prune.

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

    def __init__(self, schedule, *, scope: str = "layer", frequency: int | None = None):
        super().__init__()
        self.schedule = schedule
        self.scope = scope
        self.frequency = frequency

    def set_model(self, model):
        super().set_model(model)
        if self.scope not in _ALLOCATIONS:
            raise ValueError(
                f"Expected `scope` to be one of {tuple(_ALLOCATIONS)}. "
                f"Received: scope={self.scope!r}."
            )
        if self.frequency is not None and self.frequency < 1:
            raise ValueError(
                "Expected `frequency` to be 1 or more batches, or `None`. "
                f"Received: frequency={self.frequency}."
            )
        layers.promote(model).warn()

    def on_train_begin(self, logs=None):
        known = self.params["steps"] is not None
        self._schedule = as_schedule(self.schedule, self.total_steps if known else None)
        self._last_step = None

    def on_progress(self, step, progress):
        since = step if self._last_step is None else self._last_step + 1
        due = any(self._is_due(moment) for moment in range(since, step + 1))
        self._last_step = step
        if due:
            prune(self.model, self._schedule(progress), scope=self.scope)

    def on_epoch_end(self, epoch, logs=None):
        model = self.model
        self._write_zeros(model)
        if logs is not None:
            logs["sparsity"] = layers.sparsity(model)

    def on_train_end(self, logs=None):
        # Averaged weights, which Keras writes before this hook, know no mask.
        self._write_zeros(self.model)

    def _is_due(self, step):
        if hasattr(self._schedule, "is_due"):
            return self._schedule.is_due(step / self.total_steps)
        frequency = self.frequency or max(1, self.total_steps // 100)
        return step % frequency == 0 or self.ends_epoch(step)

    @staticmethod
    def _write_zeros(model):
        for kernel in layers.kernels(model):
            kernel.write_zeros()


def prune(model, sparsity: float, *, scope: str = "layer") -> None:
    """Remove the smallest weights of a promoted model, now.

    What `WeightPruning` does at each update, for training loops of one's own.

    Args:
        model: A model that `layers.promote` was called on.
        sparsity: Float in [0, 1), the share to remove; kernels that are sparser
            already stay so.
        scope: `"layer"` or `"model"`, as for `WeightPruning`. Defaults to
            `"layer"`.
    """
    kernels = layers.kernels(model)
    masks = [kernel.mask for kernel in kernels]
    scores = [magnitude(k.weights, m) for k, m in zip(kernels, masks, strict=True)]
    counts = _ALLOCATIONS[scope](scores, sparsity)
    for kernel, mask, score, count in zip(kernels, masks, scores, counts, strict=True):
        present = mask.size - mask.sum()
        if count > present:
            kernel.set_mask(keep_largest(score, count))
