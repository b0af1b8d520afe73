import numpy as np

from keras_micronets import layers
from keras_micronets.callbacks.base import ProgressCallback
from keras_micronets.channels.cut import cut_by_graph
from keras_micronets.channels.importance import GroupNorm
from keras_micronets.channels.masking import mask_channels, masked_plan
from keras_micronets.channels.planner import Planner
from keras_micronets.schedules import PolynomialDecay


class ChannelPruning(ProgressCallback):
    """Train a network into a smaller one, to a budget that is set beforehand.

    At first all channels learn. From `start` on, a few at a time are left out, those
    of the lowest importance for their cost, until `end`, when the budget is met. Until
    then a channel that is left out keeps its weights, and returns if its importance
    exceeds another's. From `end` on the choice stands, and the rest of the run
    trains what is left. `compact_` is then the small network: a plain Keras model, in
    the shape it will have on the device.

    A channel is left out by masks on all kernels that read it, so that at each moment
    the model predicts what the small network would. At the end of each epoch,
    `logs["params"]` and `logs["macs"]` are the shares that are left; list this callback
    before the loggers that shall show them. Masks of other callbacks would be
    overwritten: let them prune the small network's weights in a second `fit`.

    Utilities are the callback's own and begin anew when a run resumes; masks come
    with the model.

    Args:
        params: Float in (0, 1], the share of parameters that may be kept. `None` for
            any. Defaults to `None`.
        macs: The same for multiply-accumulates; see `channels.plan`.
        importance: One of `channels.importance`, or a function with their signature.
            `None` for `GroupNorm(strength=0.005)`. Defaults to `None`.
        data: What gradients are taken on, a batch an update, round after round: a tuple
            of arrays `(x, y)`, or batches as they are (see `layers.batches`). Needed by
            importance that have `needs_gradients`, as `Taylor`. Defaults to `None`.
        start: Float, the progress in [0, 1] up to which all channels learn. Defaults
            to `0.1`.
        end: Float, the progress from which the choice stands. Defaults to `0.6`.
        decay: Float in [0, 1), how much of the importance before an update still counts
            at it. Defaults to `0.9`.
        frequency: Integer, batches between updates. `None` for two hundred updates a
            run. Defaults to `None`.
        allocation, round_to, min_channels, scope: As for `channels.plan`.
        seed: Integer, for the order of `data`. Defaults to `0`.

    Attributes:
        compact_: The small network, after `fit`.
        plan_: The `channels.Plan` that it was made by.

    Raises:
        ValueError: When `fit` begins, if an argument is none of these, a budget can't
            be met, or the model has no graph or nothing to cut.

    Example:

    ```python
    pruning = keras_micronets.callbacks.ChannelPruning(macs=0.5)
    model.fit(x, y, epochs=20, callbacks=[pruning])
    pruning.compact_.save("small.keras")
    ```

    Reference: Shen et al., GLOBECOM 2020, and Qi et al., EURASIP Journal on Advances in
    Signal Processing 2021:31, have training that ends at a rate set beforehand; how
    they choose is not known to us. Utilities with decay, and channels that come back,
    are those of the same authors' "Dynamic channel propagation" (arXiv:2007.01486),
    where the budget is a share of all channels, and gradients are those of the
    training's own batches.
    """

    def __init__(
        self,
        *,
        params: float | None = None,
        macs: float | None = None,
        importance=None,
        data=None,
        start: float = 0.1,
        end: float = 0.6,
        decay: float = 0.9,
        frequency: int | None = None,
        allocation: str = "global",
        round_to: int = 8,
        min_channels: int = 8,
        scope=None,
        seed: int = 0,
    ):
        super().__init__()
        self.budgets = {"params": params, "macs": macs}
        self.importance = importance
        self.data = data
        self.start = start
        self.end = end
        self.decay = decay
        self.frequency = frequency
        self.allocation = allocation
        self.round_to = round_to
        self.min_channels = min_channels
        self.scope = scope
        self.seed = seed

    def set_model(self, model):
        super().set_model(model)
        self._check()
        layers.prepare(model).warn()
        self._planner = Planner(
            model,
            allocation=self.allocation,
            round_to=self.round_to,
            min_channels=self.min_channels,
            scope=self.scope,
            masked=True,
        )
        self._planner.limits(**self.budgets)

    def on_train_begin(self, logs=None):
        self._batches = self._scores = self._last_step = None
        self._is_settled = False
        self._importance = self._chosen_importance()

    def on_progress(self, step, progress):
        if self._last_step is None:  # by now a run that resumes has its masks back
            self.plan_ = masked_plan(self.model, self._planner.graph)
        since = step if self._last_step is None else self._last_step + 1
        self._last_step = step
        due = any(moment % self._frequency == 0 for moment in range(since, step + 1))
        if progress >= self.end:
            self._settle(step, progress)
        elif due:
            self._update(step, progress)

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            for kind in self.budgets:
                before, after = getattr(self.plan_, kind)
                logs[kind] = after / before

    def on_train_end(self, logs=None):
        model = self.model
        layers.write_zeros(model)
        self.compact_ = cut_by_graph(model, self._planner.graph, self.plan_)

    def _settle(self, step, progress):
        """Make the last choice, which one that resumes behind it has made before."""
        if not self._is_settled:
            if not self._planner.meets(self.plan_, **self.budgets):
                self._update(step, progress)
            self._is_settled = True

    @property
    def _frequency(self):
        return self.frequency or max(1, self.total_steps // 200)

    def _update(self, step, progress):
        """Weigh the channels, and leave out as many as there should be by now."""
        model, graph = self.model, self._planner.graph
        self._observe(model, graph, step // self._frequency)
        if hasattr(self._importance, "regularize"):
            self._importance.regularize(graph, self._scores)
        if progress > self.start:
            now = {
                kind: share if share is None else self._share(share, progress)
                for kind, share in self.budgets.items()
            }
            self.plan_ = self._planner.plan(self._scores, **now)
            mask_channels(model, graph, self.plan_)

    def _share(self, kept, progress):
        ramp = PolynomialDecay(0.0, 1.0 - kept, begin=self.start, end=self.end)
        return 1.0 - ramp(progress)

    def _observe(self, model, graph, n_before):
        """Add what the channels are worth now to what they were before."""
        gradients = None
        if getattr(self._importance, "needs_gradients", False):
            if self._batches is None:
                self._batches = layers.batches(
                    self.data, seed=self.seed, start=n_before
                )
            gradients = layers.kernel_gradients(model, *next(self._batches))
        found = [
            own / max(float(np.mean(own)), 1e-12)
            for own in self._importance(model, graph, gradients)
        ]
        if self._scores is not None:
            found = [
                self.decay * before + (1 - self.decay) * now
                for before, now in zip(self._scores, found, strict=True)
            ]
        self._scores = found

    def _chosen_importance(self):
        return GroupNorm(strength=0.005) if self.importance is None else self.importance

    def _check(self):
        if not 0.0 <= self.start < self.end <= 1.0:
            raise ValueError(
                "Expected 0 <= `start` < `end` <= 1, as shares of the run. Received: "
                f"start={self.start}, end={self.end}."
            )
        if not 0.0 <= self.decay < 1.0:
            raise ValueError(
                f"Expected `decay` in [0, 1). Received: decay={self.decay}."
            )
        if self.frequency is not None and self.frequency < 1:
            raise ValueError(
                "Expected `frequency` to be 1 or more batches, or `None`. "
                f"Received: frequency={self.frequency}."
            )
        importance = self._chosen_importance()
        if getattr(importance, "needs_gradients", False) and self.data is None:
            raise ValueError(
                "Expected `data`, as a tuple `(x, y)`, on which the importance takes "
                f"gradients. Received: data=None, importance={importance!r}."
            )
