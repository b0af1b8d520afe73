from collections.abc import Sequence

import numpy as np

from keras_micronets.sparsity.masks import keep_largest


def allocate_per_layer(scores: Sequence[np.ndarray], sparsity: float) -> list[int]:
    """Return how many entries to remove from each array: the same share of each.

    Every array keeps at least one entry, so that no layer is cut off.

    Args:
        scores: Arrays of scores, one a kernel.
        sparsity: Float in [0, 1).

    Returns:
        A list of integers, each within an entry of its share.
    """
    return [min(round(sparsity * s.size), s.size - 1) for s in scores]


def allocate_over_model(scores: Sequence[np.ndarray], sparsity: float) -> list[int]:
    """Return how many entries to remove from each array: the lowest of all.

    Scores are compared across arrays. Every array keeps its highest entry, so
    that no layer is cut off; with many small arrays the total may therefore fall
    short of the share asked for, by one entry an array at most.

    Args:
        scores: Arrays of scores, one a kernel.
        sparsity: Float in [0, 1).

    Returns:
        A list of integers.
    """
    together = np.concatenate([score.ravel() for score in scores])
    mask = keep_largest(together, round(sparsity * together.size))
    ends = np.cumsum([score.size for score in scores])[:-1]
    removed = [part.size - np.count_nonzero(part) for part in np.split(mask, ends)]
    return [min(n, score.size - 1) for n, score in zip(removed, scores, strict=True)]
