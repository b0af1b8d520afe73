"""Remove weights of a prepared model: what a training loop calls."""

from collections.abc import Sequence

import keras
import numpy as np

from keras_micronets import layers
from keras_micronets.layers.optimizer_slots import zero_slots
from keras_micronets.schedules import check_sparsity
from keras_micronets.sparsity import (
    Unstructured,
    as_allocation,
    as_criterion,
    drop_and_grow,
    keep_largest,
    needs_gradients,
)


def prune(
    model: keras.Model,
    sparsity: float,
    *,
    pattern=None,
    criterion="magnitude",
    allocation="uniform",
    scope=None,
    gradients: Sequence[np.ndarray] | None = None,
    seed: int = 0,
) -> None:
    """Remove weights of a prepared model, now.

    What `WeightPruning` does at each update, for training loops of one's own.

    Args:
        model: A model that `layers.prepare` was called on.
        sparsity: Float in [0, 1), the share to remove; kernels that are sparser
            already stay so.
        pattern: As for `WeightPruning`. Defaults to `None`.
        criterion: As for `WeightPruning`. Hand the same `sparsity.Movement()` to each
            call: it holds the sums. Defaults to `"magnitude"`.
        allocation: As for `WeightPruning`. Defaults to `"uniform"`.
        scope: As for `WeightPruning`. Defaults to `None`.
        gradients: Arrays, one a kernel of `layers.kernels(model)`, as
            `layers.kernel_gradients` gives them. Defaults to `None`.
        seed: Integer, for the criterion `"random"`. Defaults to `0`.

    Raises:
        ValueError: If an argument is none of these, or gradients are missing.

    Example:

    ```python
    keras_micronets.layers.prepare(model)
    gradients = keras_micronets.layers.kernel_gradients(model, x, y)
    prune(model, 0.5, criterion="taylor", gradients=gradients)
    ```
    """
    check_sparsity(sparsity, "sparsity")
    pattern = Unstructured() if pattern is None else pattern
    allocate = as_allocation(allocation)
    chosen = chosen_kernels(model, scope)
    scores = _scores(model, chosen, as_criterion(criterion, seed=seed), gradients)
    if getattr(allocate, "needs_scores", True):
        scores = list(scores)
        counts = allocate([pattern.pooled(score) for score in scores], sparsity)
    else:
        counts = allocate([_stand_in(kernel) for kernel in chosen], sparsity)
    for kernel, score, count in zip(chosen, scores, counts, strict=True):
        if count > np.count_nonzero(score == -np.inf):
            kernel.set_mask(kernel.layout.restore(pattern.mask(score, count)))
        else:
            kernel.write_zeros()  # momenta move weights that are masked


def _scores(model, chosen, criterion, gradients):
    """Yield the scores of each kernel in the canonical layout, one after the other."""
    by_kernel = {}
    if needs_gradients(criterion):
        if gradients is None:
            raise ValueError(
                "Expected `gradients`, which the criterion needs, as "
                "`layers.kernel_gradients(model, x, y)` gives them. Received: None."
            )
        by_kernel = dict(zip(layers.kernels(model), gradients, strict=True))
    for kernel in chosen:
        score = criterion
        if hasattr(criterion, "for_kernel"):
            score = criterion.for_kernel(kernel)
        values = score(kernel.weights, by_kernel.get(kernel))
        values = np.where(kernel.mask, values, np.float32(-np.inf))
        yield kernel.layout.canonical(values)


def chosen_kernels(model: keras.Model, scope) -> list[layers.Kernel]:
    """Return the kernels of a prepared model that a scope chooses; `None` for all."""
    return layers.kernels(model) if scope is None else scope(model)


def _stand_in(kernel):
    """An array of the kernel's canonical shape that takes no memory."""
    return np.broadcast_to(np.float32(0), kernel.layout.shape)


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
    variables = [kernel.layer.raw(kernel.name) for kernel in kernels]
    zero_slots(model, variables, grown)
