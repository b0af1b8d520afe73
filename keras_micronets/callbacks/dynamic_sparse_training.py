from collections.abc import Callable
from math import cos, pi
from typing import Any

import numpy as np

from keras_micronets._serialization import serializable
from keras_micronets.callbacks.base import SparsityCallback
from keras_micronets.callbacks.mask_updates import drop_and_regrow, sparsify_at_random
from keras_micronets.layers.scope import ScopeFunction, select_kernels
from keras_micronets.schedules import check_sparsity
from keras_micronets.sparsity import as_allocation

__all__ = ["DynamicSparseTraining"]

GROWTHS = ("gradient", "random")


@serializable()
class DynamicSparseTraining(SparsityCallback):
    """Train a model that is sparse from the start, and move its connections.

    At the first step of a dense model, random masks of the given sparsity are set; a
    loaded or resumed model that already has this sparsity keeps its masks. From then
    on, every `frequency` batches, each kernel drops its smallest weights and grows
    the same number of others: where the gradient of the loss is largest (RigL), or at
    random (SET). New weights and their optimizer slots start at zero. The sparsity
    does not change. At the end of each epoch, `logs["sparsity"]` is the share of
    removed weights; list this callback before the loggers that record it.

    The share of the kept weights that moves decreases along a cosine, from
    `drop_fraction` at the beginning to 0 at `end`.

    This differs from RigL's paper in two ways: gradients are computed after the update
    of the step and on a batch of `data`, since callbacks do not receive the training
    batches; and a dropped weight cannot grow back in the same update.

    Args:
        sparsity: Float in [0, 1), of the kernels in `scope` together.
        growth: `"gradient"` to grow where the gradient is largest, `"random"` to
            grow anywhere. Defaults to `"gradient"`.
        drop_fraction: Float in (0, 1], the share of the kept weights of each kernel
            that moves in the first update. Defaults to `0.3`.
        scope: As for `WeightPruning`.
        data: As for `WeightPruning`. Required for growth by gradient.
        allocation: As for `WeightPruning`. `None` for `"erk"`. Defaults to `None`.
        frequency: Integer, batches between updates; if Keras does not know the number
            of batches, there is one update per epoch. `None` for 100. Defaults to
            `None`.
        end: Float in (0, 1], the progress from which masks do not change. Defaults to
            `0.75`.
        seed: Integer. Random masks depend on it and on the step, so that a run that
            resumes draws the same ones. Defaults to `0`.

    Raises:
        ValueError: When `fit` begins, if an argument is invalid, or the
            model is not built or has nothing to prune.

    Example:

    ```python
    training = keras_micronets.callbacks.DynamicSparseTraining(0.9, data=(x, y))
    model.fit(x, y, epochs=2, callbacks=[training])
    ```

    Reference: Evci et al. 2020, "Rigging the lottery: making all tickets winners"
    (RigL); Mocanu et al. 2018, "Scalable training of artificial neural networks with
    adaptive sparse connectivity inspired by network science" (SET).
    """

    def __init__(
        self,
        sparsity: float,
        *,
        growth: str = "gradient",
        drop_fraction: float = 0.3,
        scope: ScopeFunction | None = None,
        data: Any = None,
        allocation: str | Callable | None = None,
        frequency: int | None = None,
        end: float = 0.75,
        seed: int = 0,
    ):
        super().__init__()
        self.sparsity = sparsity
        self.growth = growth
        self.drop_fraction = drop_fraction
        self.scope = scope
        self.data = data
        self.allocation = allocation
        self.frequency = frequency
        self.end = end
        self.seed = seed

    def is_due(self, step: int) -> bool:
        unknown = self.steps_per_epoch is None
        return self.is_first or unknown or step % self._frequency == 0

    @property
    def _frequency(self):
        return self.frequency or 100

    def update(self, step: int, progress: float) -> None:
        if self.is_first:
            self._sparsify(self.model, step)
        elif progress < self.end:
            self._move(self.model, step, progress)

    def _sparsify(self, model, step):
        kernels = select_kernels(model, self.scope)
        removed = sum(np.count_nonzero(~kernel.mask) for kernel in kernels)
        size = sum(kernel.size for kernel in kernels)
        # The floor of small kernels may keep a little more than was asked for.
        if abs(removed - self.sparsity * size) > len(kernels) + 0.02 * size:
            sparsify_at_random(
                model,
                self.sparsity,
                scope=self.scope,
                allocation=self.allocation,
                seed=(self.seed, step),
            )

    def _move(self, model, step, progress):
        gradients = None
        if self.growth == "gradient":
            known = self.steps_per_epoch is not None
            gradients = self.gradients((step - 1) // (self._frequency if known else 1))
        drop_and_regrow(
            model,
            self.drop_fraction / 2 * (1 + cos(pi * progress / self.end)),
            scope=self.scope,
            gradients=gradients,
            seed=(self.seed, step),
        )

    def check(self) -> None:
        super().check()
        check_sparsity(self.sparsity, "sparsity")
        as_allocation(self.allocation or "erk")
        if self.growth not in GROWTHS:
            _refuse("growth", f"to be one of {GROWTHS}", self.growth)
        if self.growth == "gradient" and self.data is None:
            _refuse(
                "data",
                'that `growth="gradient"` computes gradients on, as a tuple `(x, y)`; '
                'or `growth="random"`',
                None,
            )
        for name in ("drop_fraction", "end"):
            if not 0.0 < getattr(self, name) <= 1.0:
                _refuse(name, "in (0, 1]", getattr(self, name))


def _refuse(name, expected, received):
    raise ValueError(f"Expected `{name}` {expected}. Received: {name}={received!r}.")
