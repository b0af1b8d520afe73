from keras_micronets.callbacks.base import SparsityCallback
from keras_micronets.callbacks.pruning import prune
from keras_micronets.schedules import as_schedule
from keras_micronets.sparsity import as_allocation, as_criterion, needs_gradients


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
