from math import cos, pi

import numpy as np

from keras_micronets.callbacks.base import SparsityCallback
from keras_micronets.callbacks.pruning import (
    chosen_kernels,
    drop_and_regrow,
    sparsify_at_random,
)
from keras_micronets.schedules import check_sparsity
from keras_micronets.sparsity import as_allocation

GROWTHS = ("gradient", "random")


class DynamicSparseTraining(SparsityCallback):
    """Train a model that is sparse from the start, and move its connections.

    At the first step of a dense model, masks of the given sparsity are drawn at
    random; one that is that sparse already, as a loaded or resumed one, keeps its
    masks. From then on, every `frequency` batches, each kernel drops its smallest
    weights and grows as many elsewhere: where the gradient of the loss is largest
    (RigL), or at random (SET). New weights start at zero, and so do the optimizer's
    slots of them. Sparsity stays as it is. At the end of each epoch,
    `logs["sparsity"]` is the share removed; list this callback before the loggers
    that shall show it.

    The share of the kept weights that moves falls from `drop_fraction` at the
    beginning to nothing at `end`, along a cosine.

    Two things are unlike RigL's paper: the gradient is taken after the step's own
    update and on a batch of `data`, for callbacks never see the training's; and
    what was dropped cannot grow back in the same update.

    Args:
        sparsity: Float in [0, 1), of the kernels in `scope` together.
        growth: `"gradient"` to grow where the gradient is largest, `"random"` to
            grow anywhere. Defaults to `"gradient"`.
        data: What the gradients are taken on, a batch an update, round after
            round: a tuple of arrays `(x, y)`, read 128 samples a batch, or batches
            as they are, as a dataset (see `layers.batches`). Needed where growth is
            by gradient. Defaults to `None`.
        allocation: `"erk"` removes fewer of small kernels (Erdos-Renyi-Kernel),
            `"uniform"` the same share of each, `"global"` at random of all together;
            or a function, as in `WeightPruning`. Defaults to `"erk"`.
        drop_fraction: Float in (0, 1], of the weights that each kernel keeps.
            Defaults to `0.3`.
        frequency: Integer, batches between updates; where Keras does not know the
            number of batches there is one an epoch. Defaults to `100`.
        end: Float in (0, 1], the progress from which masks stay as they are.
            Defaults to `0.75`.
        scope: Function from a model to the `Kernel`s to sparsify, as
            `layers.Scope`; `None` for all. Defaults to `None`.
        seed: Integer. What is drawn depends on it and on the step, so that a run
            that resumes draws the same. Defaults to `0`.

    Raises:
        ValueError: When `fit` begins, if an argument is none of these, or the
            model is not built or has nothing to prune.

    Example:

    ```python
    training = keras_micronets.callbacks.DynamicSparseTraining(0.9, data=(x, y))
    model.fit(x, y, epochs=20, callbacks=[training])
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
        data=None,
        allocation="erk",
        drop_fraction: float = 0.3,
        frequency: int = 100,
        end: float = 0.75,
        scope=None,
        seed: int = 0,
    ):
        super().__init__()
        self.sparsity = sparsity
        self.growth = growth
        self.data = data
        self.allocation = allocation
        self.drop_fraction = drop_fraction
        self.frequency = frequency
        self.end = end
        self.scope = scope
        self.seed = seed

    def is_due(self, step):
        unknown = self.params["steps"] is None
        return self.is_first or unknown or step % self.frequency == 0

    def update(self, step, progress):
        if self.is_first:
            self._sparsify(self.model, step)
        elif progress < self.end:
            self._move(self.model, step, progress)

    def _sparsify(self, model, step):
        kernels = chosen_kernels(model, self.scope)
        removed = sum(np.count_nonzero(~kernel.mask) for kernel in kernels)
        size = sum(kernel.size for kernel in kernels)
        if abs(removed - self.sparsity * size) > len(kernels):
            sparsify_at_random(
                model,
                self.sparsity,
                allocation=self.allocation,
                scope=self.scope,
                seed=(self.seed, step),
            )

    def _move(self, model, step, progress):
        gradients = None
        if self.growth == "gradient":
            known = self.params["steps"] is not None
            gradients = self.gradients((step - 1) // (self.frequency if known else 1))
        drop_and_regrow(
            model,
            self.drop_fraction / 2 * (1 + cos(pi * progress / self.end)),
            gradients=gradients,
            scope=self.scope,
            seed=(self.seed, step),
        )

    def check(self):
        check_sparsity(self.sparsity, "sparsity")
        as_allocation(self.allocation)
        if self.growth not in GROWTHS:
            _refuse("growth", f"to be one of {GROWTHS}", self.growth)
        if self.growth == "gradient" and self.data is None:
            _refuse(
                "data",
                'that `growth="gradient"` takes gradients on, as a tuple `(x, y)`; '
                'or `growth="random"`',
                None,
            )
        if self.frequency < 1:
            _refuse("frequency", "to be 1 or more batches", self.frequency)
        for name in ("drop_fraction", "end"):
            if not 0.0 < getattr(self, name) <= 1.0:
                _refuse(name, "in (0, 1]", getattr(self, name))


def _refuse(name, expected, received):
    raise ValueError(f"Expected `{name}` {expected}. Received: {name}={received!r}.")
