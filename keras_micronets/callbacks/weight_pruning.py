from keras_micronets import layers
from keras_micronets.callbacks.progress_callback import ProgressCallback
from keras_micronets.callbacks.pruning import chosen_kernels, prune
from keras_micronets.schedules import as_schedule
from keras_micronets.sparsity import as_allocation, as_criterion, needs_gradients


class WeightPruning(ProgressCallback):
    """Remove weights of a model while it trains.

    The layers that have kernels are promoted in place when `fit` begins. From
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

    def set_model(self, model):
        super().set_model(model)
        _check(self)
        layers.promote(model).warn()
        chosen_kernels(model, self.scope)

    def on_train_begin(self, logs=None):
        known = self.params["steps"] is not None
        self._schedule = as_schedule(self.schedule, self.total_steps if known else None)
        self._criterion = as_criterion(self.criterion, seed=self.seed)
        self._batches = None
        self._last_step = None

    def on_progress(self, step, progress):
        since = step if self._last_step is None else self._last_step + 1
        due = any(self._is_due(moment) for moment in range(since, step + 1))
        self._last_step = step
        if due:
            self._update(self.model, step, self._schedule(progress))

    def on_epoch_end(self, epoch, logs=None):
        model = self.model
        layers.write_zeros(model)
        if logs is not None:
            logs["sparsity"] = layers.sparsity(model)

    def on_train_end(self, logs=None):
        # Averaged weights, which Keras writes before this hook, know no mask.
        layers.write_zeros(self.model)

    def _update(self, model, step, sparsity):
        gradients = None
        if needs_gradients(self._criterion):
            if self._batches is None:
                start = step // self._frequency
                self._batches = layers.batches(self.data, seed=self.seed, start=start)
            gradients = layers.kernel_gradients(model, *next(self._batches))
        prune(
            model,
            sparsity,
            pattern=self.pattern,
            criterion=self._criterion,
            allocation=self.allocation,
            scope=self.scope,
            gradients=gradients,
        )

    @property
    def _frequency(self):
        return self.frequency or max(1, self.total_steps // 100)

    def _is_due(self, step):
        if hasattr(self._schedule, "is_due"):
            return self._schedule.is_due(step / self.total_steps)
        return step % self._frequency == 0 or self.ends_epoch(step)


def _check(pruning):
    as_allocation(pruning.allocation)
    needs_data = needs_gradients(as_criterion(pruning.criterion))
    if needs_data and pruning.data is None:
        raise ValueError(
            "Expected `data`, as a tuple `(x, y)`, on which the criterion takes "
            f"gradients. Received: data=None, criterion={pruning.criterion!r}."
        )
    if pruning.pattern is not None and not hasattr(pruning.pattern, "mask"):
        raise ValueError(
            "Expected `pattern` to be a value such as `sparsity.NofM(2, 4)`. "
            f"Received: pattern={pruning.pattern!r}."
        )
    if pruning.frequency is not None and pruning.frequency < 1:
        raise ValueError(
            "Expected `frequency` to be 1 or more batches, or `None`. "
            f"Received: frequency={pruning.frequency}."
        )
