import json
import os
from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_micronets._serialization import Configurable, serializable
from keras_micronets.callbacks.base import best_is_highest
from keras_micronets.layers.kernels import Kernel
from keras_micronets.layers.optimizer_slots import zero_slots
from keras_micronets.learners.storage import write_json

__all__ = ["AccuracyGuard"]


@serializable()
class AccuracyGuard(Configurable):
    """Let `WeightPruning` remove weights only while a metric stays near its best.

    After each epoch the metric is compared with its best value of the run. Within the
    tolerance, the sparsity follows the schedule. Otherwise the masks return to those
    of the last epoch that was within it; weights that come back have the values of
    that epoch, and the sparsity grows again once the metric has recovered, in
    steps of half the size, which double with every epoch within the tolerance.
    `logs["guard"]` is the sparsity that the guard accepts, of the kernels in scope.

    Args:
        tolerance: Float, 0 or more, by how much the metric may be worse than its best.
            Defaults to `0.01`.
        monitor: String, name of a metric in the logs of every epoch. Defaults to
            `"val_accuracy"`.
        mode: `"max"` if high values are good, `"min"` if low ones are, `"auto"` to
            infer it from the name as Keras does. Defaults to `"auto"`.
        path: Path of a JSON file that keeps the best value, for a run that may resume.
            `None` to start with the first epoch after resuming. Defaults to `None`.

    Raises:
        ValueError: If the tolerance is negative or the mode unknown; after the first
            epoch, if the logs do not have the metric.

    Example:

    ```python
    guard = keras_micronets.callbacks.AccuracyGuard(0.02, monitor="val_loss")
    pruning = keras_micronets.callbacks.WeightPruning(
        keras_micronets.schedules.PolynomialDecay(0.0, 0.9), guard=guard
    )
    model.fit(x, y, validation_split=0.2, epochs=2, callbacks=[pruning])
    ```

    Reference: Zhu and Gupta 2017, "To prune, or not to prune: exploring the efficacy
    of pruning for model compression", for the schedule; the steps back are a
    backtracking line search on it.
    """

    def __init__(
        self,
        tolerance: float = 0.01,
        *,
        monitor: str = "val_accuracy",
        mode: str = "auto",
        path: str | os.PathLike | None = None,
    ):
        if tolerance < 0:
            raise ValueError(
                f"Expected `tolerance` to be 0 or more. Received: {tolerance}."
            )
        self.tolerance = tolerance
        self.monitor = monitor
        self.mode = mode
        self.path = None if path is None else str(path)
        self._sign = 1.0 if best_is_highest(monitor, mode) else -1.0

    def begin(self, step: int, sparsity: float) -> None:
        """Start a run, or resume one at a step, with the present sparsity in scope."""
        self._best, self._room, self._kept = -inf, inf, None
        self._accepted, self._ceiling = 0.0, inf
        if step:
            self._accepted = self._ceiling = sparsity
            if self.path and Path(self.path).exists():
                state = json.loads(Path(self.path).read_text())
                self._best, self._room = state["best"], state["room"]

    def limit(self, sparsity: float) -> float:
        """Return the sparsity to prune to where the schedule has a given one."""
        return min(sparsity, self._ceiling)

    def judge(
        self,
        model: keras.Model,
        kernels: Sequence[Kernel],
        sparsity: float,
        logs: dict[str, Any],
    ) -> None:
        """Accept the sparsity of an epoch, or step back.

        Args:
            model: The model that is trained.
            kernels: The kernels in scope.
            sparsity: The sparsity that they were last pruned to.
            logs: Logs of the epoch; `"guard"` is added.
        """
        if self.monitor not in logs:
            raise ValueError(
                f"Expected `monitor` to be one of the metrics {sorted(logs)} of every "
                f"epoch. Received: monitor={self.monitor!r}."
            )
        value = self._sign * float(logs[self.monitor])
        self._best = max(self._best, value)
        if value >= self._best - self.tolerance:
            self._room *= 2
            self._accepted = sparsity
            self._kept = [(kernel.mask, kernel.weights) for kernel in kernels]
            self._ceiling = self._accepted + self._room
        else:
            if sparsity > self._accepted:
                self._room = (sparsity - self._accepted) / 4  # doubled when accepted
                self._step_back(model, kernels)
            self._ceiling = self._accepted
        logs["guard"] = self._accepted
        if self.path:
            write_json(Path(self.path), {"best": self._best, "room": self._room})

    def _step_back(self, model, kernels):
        if self._kept is None:  # the run resumed in this epoch
            return
        grown = []
        for kernel, (mask, weights) in zip(kernels, self._kept, strict=True):
            kernel.write_zeros()  # momenta move masked weights
            grown.append(mask & ~kernel.mask)
            kernel.variable.assign(np.where(grown[-1], weights, kernel.weights))
            kernel.assign_mask(mask)
        zero_slots(model, [kernel.variable for kernel in kernels], grown)
