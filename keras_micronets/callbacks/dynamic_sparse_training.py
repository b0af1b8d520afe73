from collections.abc import Sequence
from math import cos, pi

import keras
import numpy as np

from keras_micronets import layers
from keras_micronets.callbacks.base import SparsityCallback, chosen_kernels
from keras_micronets.layers.optimizer_slots import zero_slots
from keras_micronets.schedules import check_sparsity
from keras_micronets.sparsity import as_allocation, drop_and_grow, keep_largest

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


def sparsify_at_random(
    model: keras.Model,
    sparsity: float,
    *,
    allocation="erk",
    scope=None,
    seed: int | Sequence[int] = 0,
) -> None:
    """Draw masks of a given sparsity at random.

    What is removed already is removed first; a kernel that is sparser than its
    share gets random weights back, at zero.

    Args:
        model: A model that `layers.prepare` was called on.
        sparsity: Float in [0, 1), the share that is removed afterwards.
        allocation: `"uniform"`, `"global"`, `"erk"` or a function with the
            signature of those in `keras_micronets.sparsity`. Defaults to `"erk"`.
        scope: Function from a model to the `Kernel`s to draw masks for, as
            `layers.Scope`; `None` for all. Defaults to `None`.
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
    allocate = as_allocation(allocation)
    kernels = chosen_kernels(model, scope)
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
    gradients: Sequence[np.ndarray] | None = None,
    scope=None,
    seed: int | Sequence[int] = 0,
) -> None:
    """Drop the smallest weights of each kernel, and grow as many elsewhere.

    New weights start at zero, with the optimizer's slots at zero too. Dropped ones
    do not grow back at once; where a kernel is less than half sparse, that may
    leave fewer to grow, and so to drop, than asked for. Sparsity stays as it is,
    kernel by kernel.

    Args:
        model: A model that `layers.prepare` was called on, with masks.
        fraction: Float in [0, 1], of the weights that each kernel keeps.
        gradients: Arrays, one a kernel of `layers.kernels(model)`, as
            `layers.kernel_gradients` gives them: weights grow where they are
            largest in magnitude (RigL). `None` to grow at random (SET). Defaults to
            `None`.
        scope: Function from a model to the `Kernel`s to change, as `layers.Scope`;
            `None` for all. Defaults to `None`.
        seed: Integer, or a sequence of them, for growth at random. Defaults to `0`.

    Raises:
        ValueError: If the fraction lies outside [0, 1], or there is not one gradient
            for each kernel.

    Example:

    ```python
    gradients = keras_micronets.layers.kernel_gradients(model, x, y)
    keras_micronets.callbacks.drop_and_regrow(model, 0.3, gradients=gradients)
    ```

    Reference: Evci et al. 2020, "Rigging the lottery: making all tickets winners";
    Mocanu et al. 2018, "Scalable training of artificial neural networks with adaptive
    sparse connectivity inspired by network science".
    """
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(
            "Expected `fraction` in [0, 1], of the weights that are kept. "
            f"Received: fraction={fraction}."
        )
    kernels = chosen_kernels(model, scope)
    if gradients is None:
        rng = np.random.default_rng(seed)
        scores = [rng.random(kernel.mask.shape) for kernel in kernels]
    else:
        scores = [np.abs(gradient) for gradient in _of(kernels, model, gradients)]
    masks = []
    for kernel, score in zip(kernels, scores, strict=True):
        mask, weights = kernel.mask, kernel.weights
        n_moved = round(fraction * np.count_nonzero(mask))
        masks.append(drop_and_grow(mask, weights, growth_scores=score, n_moved=n_moved))
    _set_masks(model, kernels, masks)


def _of(kernels, model, gradients):
    everything = layers.kernels(model)
    if len(gradients) != len(everything):
        raise ValueError(
            f"Expected `gradients` to be {len(everything)} arrays, one a kernel of "
            f"`layers.kernels(model)`. Received: {len(gradients)}."
        )
    by_kernel = dict(zip(everything, gradients, strict=True))
    return [by_kernel[kernel] for kernel in kernels]


def _set_masks(model, kernels, masks):
    """Momenta move weights that are masked: write zeros before any of them grows."""
    grown = [mask & ~kernel.mask for kernel, mask in zip(kernels, masks, strict=True)]
    for kernel, mask in zip(kernels, masks, strict=True):
        kernel.write_zeros()
        kernel.set_mask(mask)
    variables = [kernel.variable for kernel in kernels]
    zero_slots(model, variables, grown)
