"""Change the masks of a prepared model: prune it, or move its connections."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_micronets import layers
from keras_micronets.layers.optimizer_slots import zero_slots
from keras_micronets.layers.scope import (
    ScopeFunction,
    kernels_by_member,
    select_kernels,
)
from keras_micronets.schedules import check_sparsity
from keras_micronets.sparsity import (
    Pattern,
    Unstructured,
    as_allocation,
    as_importance,
    needs_gradients,
)
from keras_micronets.sparsity.floors import allocate_above_floor, mask_above_floor
from keras_micronets.sparsity.masks import drop_and_grow_above_floor

__all__ = ["drop_and_regrow", "prune", "sparsify_at_random"]


def prune(
    model: keras.Model,
    sparsity: float,
    *,
    pattern: Pattern | None = None,
    scope: ScopeFunction | None = None,
    importance: str | Callable | None = None,
    gradients: Sequence[np.ndarray] | None = None,
    allocation: str | Callable | None = None,
    seed: int = 0,
) -> None:
    """Remove weights of a prepared model once, in a custom training loop.

    This is one update of `WeightPruning`, which describes the other arguments.

    Args:
        model: A model that `layers.prepare` was called on.
        sparsity: Float in [0, 1), the share to remove; kernels that are already
            sparser stay so.
        pattern, scope, importance, allocation: As for `WeightPruning`. Pass the same
            `sparsity.Movement()` to each call: it keeps the sums.
        gradients: Arrays, one for each kernel of `layers.kernels(model)`, as
            `layers.kernel_gradients` returns them. Defaults to `None`.
        seed: Integer, for random importance. Defaults to `0`.

    Raises:
        ValueError: If an argument is invalid, or gradients are missing.

    Example:

    ```python
    keras_micronets.layers.prepare(model)
    gradients = keras_micronets.layers.kernel_gradients(model, x, y)
    keras_micronets.callbacks.prune(
        model, 0.5, importance="taylor", gradients=gradients
    )
    ```
    """
    check_sparsity(sparsity, "sparsity")
    pattern = Unstructured() if pattern is None else pattern
    allocate = as_allocation(allocation or "uniform")
    function = as_importance(importance, seed=seed)
    for selected in kernels_by_member(model, scope):
        scores: Any = _scores(model, selected, function, gradients)
        if getattr(allocate, "needs_scores", True):
            scores = list(scores)
            compared = [pattern.pooled(score) for score in scores]
        else:
            compared = [_stand_in(kernel) for kernel in selected]
        counts = allocate_above_floor(allocate, compared, sparsity)
        for kernel, score, count in zip(selected, scores, counts, strict=True):
            if count > np.count_nonzero(score == -np.inf):
                layout = kernel.layout
                mask = mask_above_floor(pattern, score, count, groups=layout.groups)
                kernel.set_mask(layout.restore(mask))
            else:
                kernel.write_zeros()  # momenta move weights that are masked


def _scores(model, selected, importance, gradients) -> Iterator[np.ndarray]:
    """Yield the scores of each kernel in the canonical layout, one after the other."""
    by_kernel = {}
    if needs_gradients(importance):
        if gradients is None:
            raise ValueError(
                "Expected `gradients`, which the importance needs, as returned by "
                "`layers.kernel_gradients(model, x, y)`. Received: None."
            )
        by_kernel = dict(zip(layers.kernels(model), gradients, strict=True))
    for kernel in selected:
        score = importance
        if hasattr(importance, "for_kernel"):
            score = importance.for_kernel(kernel)
        values = score(kernel.weights, by_kernel.get(kernel))
        values = np.where(kernel.mask, values, np.float32(-np.inf))
        yield kernel.layout.canonical(values)


def _stand_in(kernel):
    """Return an array of the kernel's canonical shape that takes no memory."""
    return np.broadcast_to(np.float32(0), kernel.layout.shape)


def sparsify_at_random(
    model: keras.Model,
    sparsity: float,
    *,
    scope: ScopeFunction | None = None,
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
        ValueError: If the sparsity or the allocation is invalid.

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
    rng = np.random.default_rng(seed)
    for kernels in kernels_by_member(model, scope):
        scores = [
            k.layout.canonical(rng.random(k.mask.shape, "float32") - ~k.mask)
            for k in kernels
        ]
        counts = allocate_above_floor(allocate, scores, sparsity)
        masks = []
        for kernel, score, count in zip(kernels, scores, counts, strict=True):
            layout = kernel.layout
            mask = mask_above_floor(Unstructured(), score, count, groups=layout.groups)
            masks.append(layout.restore(mask))
        _set_masks(model, kernels, masks)


def drop_and_regrow(
    model: keras.Model,
    fraction: float,
    *,
    scope: ScopeFunction | None = None,
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

    References: see `DynamicSparseTraining`.
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
        layout = kernel.layout
        mask, weights, score = map(
            layout.canonical, (kernel.mask, kernel.weights, score)
        )
        moved = drop_and_grow_above_floor(
            mask,
            weights,
            growth_scores=score,
            n_moved=round(fraction * np.count_nonzero(mask)),
            groups=layout.groups,
        )
        masks.append(layout.restore(moved))
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
