"""Make boolean masks: `True` where an entry is kept."""

from typing import Any

import numpy as np

from keras_micronets.sparsity.floors import Floor, in_empty

__all__ = [
    "complement",
    "drop_and_grow",
    "drop_and_grow_above_floor",
    "keep_largest",
    "random_halves",
]


def keep_largest(scores: np.ndarray, n_removed: int) -> np.ndarray:
    """Return the mask that removes the entries with the smallest scores.

    Args:
        scores: Float array of any shape.
        n_removed: Integer, the exact number of entries to remove. Among equal scores
            the first in memory order are removed first, and `nan` last of all, so
            that masks of increasing `n_removed` are nested.

    Returns:
        Boolean array of the shape of `scores`, `True` where an entry is kept.

    Example:

    ```python
    keras_micronets.sparsity.keep_largest(np.array([3.0, 1.0, 2.0]), 1)
    # [True, False, True]
    ```
    """
    if n_removed <= 0:
        return np.ones(scores.shape, bool)
    flat = scores.ravel()
    highest = _nth_lowest(flat, n_removed)
    if np.isnan(highest):
        ties = np.isnan(flat)
        mask = ties.copy()
    else:
        ties = flat == highest
        mask = ~(flat < highest)
    n_ties = n_removed - (flat.size - np.count_nonzero(mask))
    mask[np.flatnonzero(ties)[:n_ties]] = False
    return mask.reshape(scores.shape)


def _nth_lowest(flat, n):
    # Removed weights score -inf. So many ties would slow the partition down.
    others = flat[flat != -np.inf]
    n_others = n - (flat.size - others.size)
    if n_others <= 0:
        return -np.inf
    others.partition(n_others - 1)
    return others[n_others - 1]


def complement(mask: np.ndarray) -> np.ndarray:
    """Return the mask that keeps exactly the entries that another mask removes."""
    return ~np.asarray(mask, bool)


def random_halves(
    shape: tuple[int, ...], rng: np.random.Generator, *, pattern: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return a random mask of half the entries, and its complement.

    Args:
        shape: Tuple of integers; with a pattern, the shape of a kernel in the
            canonical layout.
        rng: Generator of the random numbers.
        pattern: Pattern of the first mask; `None` for single entries. The complement
            has the same pattern, for N:M if M = 2 N and the inputs are a multiple of
            M. Defaults to `None`.

    Returns:
        Two boolean arrays, each the complement of the other. For an odd number of
        entries the first keeps one more; with a pattern they differ by at most a
        unit. Each output has weights in both, unless it has only one.

    Example:

    ```python
    rng = np.random.default_rng(0)
    mask, other = keras_micronets.sparsity.random_halves((4, 6), rng)
    ```

    Reference: Whitaker and Whitley 2022, "Prune and tune ensembles: low-cost
    ensemble learning with sparse independent subnetworks".
    """
    scores = rng.random(shape, np.float32)
    floor = Floor.of if pattern is None else pattern.floor
    best, worst = floor(scores).outputs, floor(-scores).outputs
    scores[worst], scores[best] = -scores.size, np.inf
    remove = keep_largest if pattern is None else pattern.mask
    mask = remove(scores, scores.size // 2)
    return mask, complement(mask)


def drop_and_grow(
    mask: np.ndarray,
    weights: np.ndarray,
    *,
    growth_scores: np.ndarray,
    n_moved: int,
    stays: np.ndarray | None = None,
) -> np.ndarray:
    """Drop the smallest weights and grow the same number of others.

    Only weights that `mask` removes can grow, so no dropped weight grows back in the
    same call.

    Args:
        mask: Boolean array, `True` where a weight is kept now.
        weights: Float array of the same shape.
        growth_scores: Float array of the same shape: the removed weights with the
            highest scores grow, `nan` last.
        n_moved: Integer, how many to drop and to grow; limited by the numbers of kept
            and of removed weights.

    Returns:
        Boolean array, the new mask.

    Example:

    ```python
    keras_micronets.sparsity.drop_and_grow(
        np.array([True, True, False, False]),
        np.array([0.1, 2.0, 0.0, 0.0]),
        growth_scores=np.array([0.0, 0.0, 0.3, 0.4]),
        n_moved=1,
    )  # [False, True, False, True]
    ```

    Reference: Mocanu et al. 2018, "Scalable training of artificial neural networks
    with adaptive sparse connectivity inspired by network science".
    """
    kept, removed = np.flatnonzero(mask), np.flatnonzero(~mask)
    protected = np.zeros(mask.shape, bool) if stays is None else mask & stays
    n_free = kept.size - int(np.count_nonzero(protected))
    n_moved = max(0, min(n_moved, n_free, removed.size))
    scores = growth_scores.ravel()[removed]
    scores = np.where(np.isnan(scores), -np.inf, scores)
    magnitudes = np.where(protected, np.float32(np.inf), np.abs(weights))
    remains = keep_largest(magnitudes.ravel()[kept], n_moved)
    grows = keep_largest(scores, removed.size - n_moved)
    moved = np.zeros(mask.size, bool)
    moved[kept[remains]] = True
    moved[removed[grows]] = True
    return moved.reshape(mask.shape)


def drop_and_grow_above_floor(
    mask: np.ndarray,
    weights: np.ndarray,
    *,
    growth_scores: np.ndarray,
    n_moved: int,
    groups: int = 1,
) -> np.ndarray:
    """Move weights as `drop_and_grow` does, and empty no output and no input.

    Args:
        mask, weights, growth_scores, n_moved: As for `drop_and_grow`, of the canonical
            shape `(..., inputs, outputs)`.
        groups: Integer, the groups of a grouped convolution. Defaults to `1`.
    """
    stays = np.zeros(mask.shape, bool)
    floor = None
    while True:
        moved = drop_and_grow(
            mask, weights, growth_scores=growth_scores, n_moved=n_moved, stays=stays
        )
        empty = in_empty(moved, groups)
        if not empty.any():
            return moved
        if floor is None:
            scores = np.where(mask, np.abs(weights), np.float32(-np.inf))
            best = Floor.of(scores, groups=groups)
            floor = best.outputs | best.inputs
        needed = floor & empty & ~stays
        if not needed.any():  # it was empty before
            return moved
        stays |= needed
