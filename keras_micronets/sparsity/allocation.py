"""How many entries each kernel loses.

All functions share one signature, so that one of your own drops in:
`(scores, sparsity) -> counts`, where `scores` are arrays, one a kernel, `sparsity` is
a float in [0, 1) and `counts` are integers, one a kernel. Entries that are removed
already score `-inf` and are among those counted. One that reads nothing but the
shapes says so by an attribute `needs_scores = False`, and is spared the scores.
"""

from collections.abc import Callable, Sequence
from math import prod

import numpy as np


def uniform(scores: Sequence[np.ndarray], sparsity: float) -> list[int]:
    """Return how many entries to remove from each array: the same share of each.

    Every array keeps at least one entry, so that no layer is cut off.

    Args:
        scores: Arrays of scores, one a kernel.
        sparsity: Float in [0, 1).

    Returns:
        A list of integers, each within an entry of its share.

    Example:

    ```python
    uniform([np.ones(10), np.ones((4, 5))], 0.5)  # [5, 10]
    ```
    """
    return [min(round(sparsity * s.size), s.size - 1) for s in scores]


def global_ranking(scores: Sequence[np.ndarray], sparsity: float) -> list[int]:
    """Return how many entries to remove from each array: the lowest of all.

    Scores are compared across arrays. Every array keeps its highest entry, so
    that no layer is cut off; with many small arrays the total may therefore fall
    short of the share asked for, by one entry an array at most.

    Args:
        scores: Arrays of scores, one a kernel.
        sparsity: Float in [0, 1).

    Returns:
        A list of integers.

    Example:

    ```python
    global_ranking([np.array([0.1, 0.2]), np.full(6, 5.0)], 0.125)  # [1, 0]
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


def erdos_renyi_kernel(scores: Sequence[np.ndarray], sparsity: float) -> list[int]:
    """Return how many entries to remove from each array: fewer of small arrays.

    The share that an array keeps is proportional to the sum of its dimensions over
    their product; where that would be more than all, it keeps all, and the others
    share what remains. Only the shapes count. Every array keeps at least one entry.

    Args:
        scores: Arrays of scores, one a kernel.
        sparsity: Float in [0, 1), of all arrays together.

    Returns:
        A list of integers.

    Example:

    ```python
    erdos_renyi_kernel([np.ones((8, 8)), np.ones((64, 64))], 0.8)  # [0, 3328]
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


uniform.needs_scores = False
erdos_renyi_kernel.needs_scores = False

ALLOCATIONS = {
    "uniform": uniform,
    "global": global_ranking,
    "erk": erdos_renyi_kernel,
}


def as_allocation(allocation) -> Callable:
    """Return an allocation as a function.

    Args:
        allocation: `"uniform"`, `"global"`, `"erk"` or a function.

    Raises:
        ValueError: If it is none of these.
    """
    if callable(allocation):
        return allocation
    if allocation not in ALLOCATIONS:
        raise ValueError(
            f"Expected `allocation` to be one of {tuple(ALLOCATIONS)} or a function "
            f"`(scores, sparsity) -> counts`. Received: allocation={allocation!r}."
        )
    return ALLOCATIONS[allocation]
