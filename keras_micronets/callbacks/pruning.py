"""Remove weights of a promoted model: what a training loop calls."""

from collections.abc import Sequence

import keras
import numpy as np

from keras_micronets import layers
from keras_micronets.schedules import check_sparsity
from keras_micronets.sparsity import (
    Unstructured,
    as_allocation,
    as_criterion,
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
    """Remove weights of a promoted model, now.

    What `WeightPruning` does at each update, for training loops of one's own.

    Args:
        model: A model that `layers.promote` was called on.
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
    keras_micronets.layers.promote(model)
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
    """Return the kernels of a promoted model that a scope chooses; `None` for all."""
    return layers.kernels(model) if scope is None else scope(model)


def _stand_in(kernel):
    """An array of the kernel's canonical shape that takes no memory."""
    return np.broadcast_to(np.float32(0), kernel.layout.shape)
