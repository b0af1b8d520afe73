import io
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_micronets._serialization import serializable
from keras_micronets.callbacks.base import (
    SparsityCallback,
    role_and_backup,
    warn_of_early_best,
)
from keras_micronets.channels.cut import cut_by_graph, try_cut
from keras_micronets.channels.importance import GroupNorm
from keras_micronets.channels.masking import (
    mask_channels,
    masked_plan,
    prepare_normalizations,
)
from keras_micronets.channels.planner import Planner
from keras_micronets.export.atomic import write_atomically
from keras_micronets.layers.scope import Scope, ScopeFunction
from keras_micronets.schedules import PolynomialDecay

__all__ = ["ChannelPruning"]


@serializable()
class ChannelPruning(SparsityCallback):
    """Prune whole channels during training, to a budget of parameters or MACs.

    Up to `start` all channels are trained. From `start` to `end` more and more
    channels are masked, those with the lowest importance for their cost, until the
    budget is met. Until then a masked channel keeps its weights, and returns if its
    importance exceeds that of another. From `end` on the selection is final, and the
    rest of the run trains the kept channels. `compact_` is then the small network,
    without the masked channels.

    A channel is masked in all kernels that read it, and left out of the means of layer,
    group and RMS normalisation, so that the model always predicts what the small
    network would. At the end of each epoch, `logs["params"]` and `logs["macs"]` are the
    shares that are left; list this callback before the loggers that record them.

    Weights that other callbacks have masked, in this `fit` or before, stay masked, and
    the weights of masked channels count in the sparsity of these callbacks. A channel
    that returns has all weights that read it. With `QuantizationAwareTraining` in the
    same `fit`, the small network has the observed ranges.

    When a run resumes with `BackupAndRestore`, masks are restored with the model, and
    the average of the importance as at the end of the last epoch. Its file lies in the
    folder of the backup.

    Args:
        params, macs, round_to, min_channels: As for `channels.plan`.
        decay: Float in [0, 1), the weight of the past in the moving average of the
            importance. Defaults to `0.9`.
        scope: As for `WeightPruning`: only channels made by these kernels are pruned.
            `None` for all that are trained, small ones included. Defaults to `None`.
        importance: One of `channels.importance`, or a function with their signature.
            `None` for `GroupNorm(strength=0.005)`. Defaults to `None`.
        data: Data to compute gradients on, as for `WeightPruning`. Required by an
            importance with `needs_gradients`, such as `Taylor`. Defaults to `None`.
        allocation: As for `channels.plan`. `None` for `"global"`. Defaults to `None`.
        frequency: Integer, batches between updates. `None` for two hundred updates
            per run. Defaults to `None`.
        start: Float in [0, 1], the progress up to which all channels are trained.
            Defaults to `0.1`.
        end: Float in [0, 1], the progress from which the selection is final. Defaults
            to `0.6`.
        seed: Integer, for the order of `data`. Defaults to `0`.

    Attributes:
        compact_: The small network, after `fit`, cut by the masks that the model has
            when this attribute is first read: also those of an earlier epoch that
            `EarlyStopping` restored, of which a warning tells if it misses a budget. It
            is a plain Keras model, unless its quantisers are on or kept weights are
            masked (see `channels.cut`).
        plan_: The `channels.Plan` that it follows.

    Raises:
        ValueError: When `fit` begins, if an argument is invalid, a budget cannot
            be met, or the model has no graph or no channel to prune.

    Example:

    ```python
    pruning = keras_micronets.callbacks.ChannelPruning(
        macs=0.8, round_to=1, min_channels=1
    )
    model.fit(x, y, epochs=2, callbacks=[pruning])
    pruning.compact_.save("small.keras")
    ```

    Reference: Shen et al., GLOBECOM 2020, and Qi et al., EURASIP Journal on Advances in
    Signal Processing 2021:31, train towards a given rate. Importance with decay, and
    channels that return, are from the same authors' "Dynamic channel propagation"
    (arXiv:2007.01486), where the budget is a share of all channels and gradients come
    from the training batches.
    """

    def __init__(
        self,
        *,
        params: float | None = None,
        macs: float | None = None,
        round_to: int = 8,
        min_channels: int = 8,
        decay: float = 0.9,
        scope: ScopeFunction | None = None,
        importance: Any = None,
        data: Any = None,
        allocation: str | None = None,
        frequency: int | None = None,
        start: float = 0.1,
        end: float = 0.6,
        seed: int = 0,
    ):
        super().__init__()
        self.budgets = {"params": params, "macs": macs}
        self.round_to = round_to
        self.min_channels = min_channels
        self.decay = decay
        self.scope = scope
        self.importance = importance
        self.data = data
        self.allocation = allocation
        self.frequency = frequency
        self.start = start
        self.end = end
        self.seed = seed

    def argument(self, name: str) -> Any:
        # Keras keeps the parameters of the run in the attribute `params`.
        return self.budgets[name] if name in self.budgets else super().argument(name)

    def prepare(self, model: keras.Model) -> None:
        super().prepare(model)
        prepare_normalizations(model)
        self._planner = Planner(
            model,
            allocation=self.allocation or "global",
            round_to=self.round_to,
            min_channels=self.min_channels,
            scope=self.scope or Scope(),  # which leaves out what is not trained
            masked=True,
        )
        self._planner.limits(**self.budgets)
        self._try_cut(model)

    def _try_cut(self, model):
        """Raise an error before training if the model cannot be cut."""
        rng, graph = np.random.default_rng(0), self._planner.graph
        scores = [rng.random(len(group.channels)) for group in graph.groups]
        try_cut(model, graph, self._planner.plan(scores, **self.budgets))

    def on_train_begin(self, logs: dict | None = None) -> None:
        super().on_train_begin(logs)
        self._averages: Any = None
        self._is_final = False
        self._importance = self._importance_function()
        warn_of_early_best(self)

    def on_progress(self, step: int, progress: float) -> None:
        if self.is_first:  # by now the masks of a resumed run are restored
            self.plan_ = masked_plan(self.model, self._planner.graph)
            if step:
                self._restore_averages()
        if progress < self.end:
            super().on_progress(step, progress)
            return
        # A run that resumes after `end` has met its budgets before.
        if not (self._is_final or self._planner.meets(self.plan_, **self.budgets)):
            self.update(step, progress)
        self._is_final, self._last_step = True, step

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if self._is_final:  # other callbacks may have grown weights that read a channel
            mask_channels(self.model, self._planner.graph, self.plan_)
        self._save_averages()
        if logs is not None:
            for kind in self.budgets:
                before, after = getattr(self.plan_, kind)
                logs[kind] = after / before

    def on_train_end(self, logs: dict | None = None) -> None:
        super().on_train_end(logs)
        self.plan_ = masked_plan(self.model, self._planner.graph)
        self._compact: keras.Model | None = None

    @property
    def compact_(self) -> keras.Model:
        if not hasattr(self, "_compact"):
            raise AttributeError("Expected a finished `fit`: `compact_` is made there.")
        if self._compact is None:
            graph = self._planner.graph
            self.plan_ = masked_plan(self.model, graph)
            self._warn_of_missed_budget()
            self._compact = cut_by_graph(self.model, graph, self.plan_)
        return self._compact

    def _warn_of_missed_budget(self):
        if not self._planner.meets(self.plan_, **self.budgets):
            budgets = {k: x for k, x in self.budgets.items() if x is not None}
            counts = {name: getattr(self.plan_, name) for name in self.budgets}
            shares = [
                f"{name}={after / before:.2f}"
                for name, (before, after) in counts.items()
            ]
            warnings.warn(
                f"Expected masks that leave {budgets} of {self.model.name!r}. "
                f"Received: {', '.join(shares)}, with masks of an epoch before `end`, "
                "which `EarlyStopping` restored or the run ended in. Use "
                "`EarlyStopping(start_from_epoch=...)` with an epoch after `end`, or "
                "train longer.",
                stacklevel=3,
            )

    def is_due(self, step: int) -> bool:
        return step % self._frequency == 0

    @property
    def _frequency(self):
        return self.frequency or max(1, self.total_steps // 200)

    def update(self, step: int, progress: float) -> None:
        model, graph = self.model, self._planner.graph
        self._measure(model, graph, step // self._frequency)
        if hasattr(self._importance, "regularize"):
            self._importance.regularize(graph, self._averages)
        if progress > self.start:
            now = {
                kind: share if share is None else self._share(share, progress)
                for kind, share in self.budgets.items()
            }
            self.plan_ = self._planner.plan(self._averages, **now)
            mask_channels(model, graph, self.plan_)

    def completes_at(self, progress: float) -> bool:
        return progress >= self.end

    def _share(self, kept, progress):
        ramp = PolynomialDecay(0.0, 1.0 - kept, start=self.start, end=self.end)
        return 1.0 - ramp(progress)

    def _measure(self, model, graph, n_before):
        """Update the moving average of the importance."""
        needs_gradients = getattr(self._importance, "needs_gradients", False)
        gradients = self.gradients(n_before) if needs_gradients else None
        scores = [
            score / max(float(np.mean(score)), 1e-12)
            for score in self._importance(model, graph, gradients)
        ]
        if self._averages is not None:
            scores = [
                self.decay * before + (1 - self.decay) * now
                for before, now in zip(self._averages, scores, strict=True)
            ]
        self._averages = scores

    def _averages_file(self):
        role, folder = role_and_backup(self)
        if folder is None or "://" in str(folder):  # none, or not a local one
            return None
        return Path(folder) / f"{role}.npz"

    def _save_averages(self):
        file = self._averages_file()
        if file is not None and self._averages is not None:
            buffer = io.BytesIO()
            np.savez(buffer, *self._averages)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, buffer.getvalue())

    def _restore_averages(self):
        """Continue the averages of the run that resumes, if they are of this model."""
        file = self._averages_file()
        if file is not None and file.is_file():
            with np.load(file, allow_pickle=False) as arrays:
                averages = list(arrays.values())
            groups = self._planner.graph.groups
            if [len(x) for x in averages] == [len(group.channels) for group in groups]:
                self._averages = averages

    def _importance_function(self):
        return GroupNorm(strength=0.005) if self.importance is None else self.importance

    def check(self) -> None:
        super().check()
        self.require_data(self._importance_function())
        if not 0.0 <= self.start < self.end <= 1.0:
            raise ValueError(
                "Expected 0 <= `start` < `end` <= 1, as fractions of the run. "
                f"Received: start={self.start}, end={self.end}."
            )
        if not 0.0 <= self.decay < 1.0:
            raise ValueError(
                f"Expected `decay` in [0, 1). Received: decay={self.decay}."
            )
