from collections.abc import Callable, Sequence
from math import cos, pi
from typing import Any

import keras
import numpy as np

from keras_micronets import layers
from keras_micronets._serialization import serializable
from keras_micronets.callbacks.base import Scope, SparsityCallback, select_kernels
from keras_micronets.layers.optimizer_slots import zero_slots
from keras_micronets.schedules import check_sparsity
from keras_micronets.sparsity import as_allocation, drop_and_grow, keep_largest

__all__ = ["DynamicSparseTraining", "drop_and_regrow", "sparsify_at_random"]

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
        ValueError: When `fit` begins, if an argument is none of these, or the
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
        scope: Scope | None = None,
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
        if abs(removed - self.sparsity * size) > len(kernels):
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


def sparsify_at_random(
    model: keras.Model,
    sparsity: float,
    *,
    scope: Scope | None = None,
    allocation: str | Callable | None = None,
    seed: int | Sequence[int] = 0,
) -> None:
    """Set random masks of a given sparsity.

    Weights that are already removed are removed first; a kernel that is sparser than
    its share gets random weights back, with the value zero.

    Args:
        model: A model that `layers.prepare` was called on.
        sparsity: Float in [0, 1), the share of removed weights afterwards.
        scope, allocation: As for `DynamicSparseTraining`.
        seed: Integer, or a sequence of them. Defaults to `0`.

    Raises:
        ValueError: If the sparsity or the allocation is none of these.

    Example:

    ```python
    keras_micronets.layers.prepare(model)
    keras_micronets.callbacks.sparsify_at_random(model, 0.8, seed=1)
    ```

    Reference: Mocanu et al. 2018, "Scalable training of artificial neural networks
    with adaptive sparse connectivity inspired by network science".
    """
    check_sparsity(sparsity, "sparsity")
    allocate = as_allocation(allocation or "erk")
    kernels = select_kernels(model, scope)
    rng = np.random.default_rng(seed)
    scores = [rng.random(k.mask.shape, "float32") - ~k.mask for k in kernels]
    counts = allocate(
        [k.layout.canonical(s) for k, s in zip(kernels, scores, strict=True)], sparsity
    )
    masks = [keep_largest(s, count) for s, count in zip(scores, counts, strict=True)]
    _set_masks(model, kernels, masks)


def drop_and_regrow(
    model: keras.Model,
    fraction: float,
    *,
    scope: Scope | None = None,
    gradients: Sequence[np.ndarray] | None = None,
    seed: int | Sequence[int] = 0,
) -> None:
    """Drop the smallest weights of each kernel and grow the same number of others.

    New weights and their optimizer slots start at zero. Dropped weights do not grow
    back in the same call; in a kernel that is less than half sparse, this may limit
    the number that moves. The sparsity of each kernel does not change.

    Args:
        model: A model that `layers.prepare` was called on, with masks.
        fraction: Float in [0, 1], the share of the kept weights of each kernel.
        scope: As for `DynamicSparseTraining`.
        gradients: Arrays, one for each kernel of `layers.kernels(model)`, as
            `layers.kernel_gradients` returns them: weights grow where they are
            largest in magnitude (RigL). `None` to grow at random (SET). Defaults to
            `None`.
        seed: Integer, or a sequence of them, for random growth. Defaults to `0`.

    Raises:
        ValueError: If the fraction lies outside [0, 1], or the number of gradients
            differs from the number of kernels.

    Example:

    ```python
    keras_micronets.layers.prepare(model)
    gradients = keras_micronets.layers.kernel_gradients(model, x, y)
    keras_micronets.callbacks.drop_and_regrow(model, 0.3, gradients=gradients)
    ```

    References: those of `DynamicSparseTraining`.
    """
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(
            "Expected `fraction` in [0, 1], a share of the kept weights. "
            f"Received: fraction={fraction}."
        )
    kernels = select_kernels(model, scope)
    if gradients is None:
        rng = np.random.default_rng(seed)
        scores = [rng.random(kernel.mask.shape) for kernel in kernels]
    else:
        scores = [np.abs(x) for x in _gradients_of(kernels, model, gradients)]
    masks = []
    for kernel, score in zip(kernels, scores, strict=True):
        mask, weights = kernel.mask, kernel.weights
        n_moved = round(fraction * np.count_nonzero(mask))
        masks.append(drop_and_grow(mask, weights, growth_scores=score, n_moved=n_moved))
    _set_masks(model, kernels, masks)


def _gradients_of(kernels, model, gradients):
    all_kernels = layers.kernels(model)
    if len(gradients) != len(all_kernels):
        raise ValueError(
            f"Expected `gradients` to be {len(all_kernels)} arrays, one for each "
            f"kernel of `layers.kernels(model)`. Received: {len(gradients)}."
        )
    by_kernel = dict(zip(all_kernels, gradients, strict=True))
    return [by_kernel[kernel] for kernel in kernels]


def _set_masks(model, kernels, masks):
    # Momenta move masked weights: write zeros before any of them grows.
    grown = [mask & ~kernel.mask for kernel, mask in zip(kernels, masks, strict=True)]
    for kernel, mask in zip(kernels, masks, strict=True):
        kernel.write_zeros()
        kernel.set_mask(mask)
    variables = [kernel.variable for kernel in kernels]
    zero_slots(model, variables, grown)
