"""Decide how many entries to remove from each kernel.

All functions have the signature `(scores, sparsity) -> counts`, and so has any function
given in their place: `scores` are arrays, one for each kernel, `sparsity` is a float in
[0, 1) and `counts` are integers, one for each kernel. Entries that are already removed
have the score `-inf` and are included in the count. A function that reads only the
shapes has an attribute `needs_scores = False`: its caller need not compute scores.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from keras_micronets._serialization import serializable

__all__ = [
    "ALLOCATIONS",
    "as_allocation",
    "erdos_renyi_kernel",
    "global_ranking",
    "uniform",
]


@serializable()
def uniform(scores: Sequence[np.ndarray], sparsity: float) -> list[int]:
    """Remove the same share of each array.

    Every array keeps at least one entry, so that no layer is disconnected.

    Example:

    ```python
    keras_micronets.sparsity.uniform([np.ones(10), np.ones((4, 5))], 0.5)  # [5, 10]
    ```
    """
    return [min(round(sparsity * s.size), s.size - 1) for s in scores]


@serializable()
def global_ranking(scores: Sequence[np.ndarray], sparsity: float) -> list[int]:
    """Remove the lowest scores of all arrays together.

    Every array keeps its highest entry, so that no layer is disconnected; with many
    small arrays the total may therefore be lower than requested, by at most one entry
    for each array.

    Example:

    ```python
    scores = [np.array([0.1, 0.2]), np.full(6, 5.0)]
    keras_micronets.sparsity.global_ranking(scores, 0.125)  # [1, 0]
    ```
    """
    together = np.concatenate([score.ravel() for score in scores])
    n_removed = round(sparsity * together.size)
    if n_removed == 0:
        return [0] * len(scores)
    together.partition(n_removed - 1)
    highest = together[n_removed - 1]
    counts = [int(np.count_nonzero(score < highest)) for score in scores]
    n_ties = n_removed - sum(counts)
    for index, score in enumerate(scores):
        taken = min(n_ties, int(np.count_nonzero(score == highest)))
        counts[index] = min(counts[index] + taken, score.size - 1)
        n_ties -= taken
    return counts


@serializable()
def erdos_renyi_kernel(scores: Sequence[np.ndarray], sparsity: float) -> list[int]:
    """Remove a smaller share of small arrays (Erdos-Renyi-Kernel, "ERK").

    The density of an array is proportional to the sum of its dimensions divided by
    their product. Arrays whose density would exceed 1 stay dense, and the others
    share the rest. Only the shapes matter. Every array keeps at least one entry.

    Example:

    ```python
    scores = [np.ones((8, 8)), np.ones((64, 64))]
    keras_micronets.sparsity.erdos_renyi_kernel(scores, 0.8)  # [0, 3328]
    ```

    Reference: Evci et al. 2020, "Rigging the lottery: making all tickets winners",
    after Mocanu et al. 2018, "Scalable training of artificial neural networks with
    adaptive sparse connectivity inspired by network science".
    """
    sizes = np.array([prod(score.shape) for score in scores], float)
    ratios = np.array([sum(score.shape) for score in scores]) / sizes
    densities = _capped_densities(sizes, ratios, (1.0 - sparsity) * sizes.sum())
    return [
        min(round((1.0 - density) * score.size), score.size - 1)
        for density, score in zip(densities, scores, strict=True)
    ]


def _capped_densities(sizes, ratios, n_kept):
    dense = np.zeros(sizes.shape, bool)
    while not dense.all():
        left = n_kept - sizes[dense].sum()
        scale = left / (ratios * sizes)[~dense].sum()
        too_dense = ~dense & (scale * ratios > 1.0)
        if not too_dense.any():
            return np.where(dense, 1.0, scale * ratios)
        dense |= too_dense
    return np.ones(sizes.shape)


for _function in (uniform, erdos_renyi_kernel):
    _function.needs_scores = False

ALLOCATIONS: dict[str, Callable] = {
    "uniform": uniform,
    "global": global_ranking,
    "erk": erdos_renyi_kernel,
}


def as_allocation(allocation: Any) -> Callable:
    """Return an allocation as a function.

    Args:
        allocation: `"uniform"`, `"global"`, `"erk"` or a function.

    Raises:
        ValueError: If it is none of the above.
    """
    if callable(allocation):
        return allocation
    if allocation not in ALLOCATIONS:
        raise ValueError(
            f"Expected `allocation` to be one of {tuple(ALLOCATIONS)} or a function "
            f"`(scores, sparsity) -> counts`. Received: allocation={allocation!r}."
        )
    return ALLOCATIONS[allocation]
