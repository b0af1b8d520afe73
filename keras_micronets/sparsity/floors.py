"""Keep layers connected: no filter and no input channel loses all its weights."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

__all__ = [
    "Floor",
    "allocate_above_floor",
    "in_empty",
    "mask_above_floor",
]


_ROUNDS = 8  # of allocation, until no weight is missing


class Floor:
    """Weights of one kernel that stay so that no output and no input is emptied.

    Args:
        outputs: Boolean array of the kernel's canonical shape, `True` for the best
            weight that is left of each output. These always stay.
        inputs: Boolean array, `True` for the best weight that is left of each input
            that would otherwise be empty. These stay where the sparsity leaves
            enough weights for them.

    Reference: Tanaka et al. 2020, "Pruning neural networks without any data by
    iteratively conserving synaptic flow", names the failure: layer collapse.
    """

    def __init__(self, outputs: np.ndarray, inputs: np.ndarray | None = None):
        self.outputs = outputs
        self.inputs = np.zeros_like(outputs) if inputs is None else inputs

    @classmethod
    def of(cls, scores: np.ndarray, *, groups: int = 1, inputs: bool = True) -> "Floor":
        """Return the floor of a kernel.

        Args:
            scores: Float array `(..., inputs, outputs)`; `-inf` where a weight is
                already removed.
            groups: Integer, the groups of a grouped convolution. Defaults to `1`.
            inputs: Boolean, whether inputs have a floor. Defaults to `True`.
        """
        *_, n_inputs, n_outputs = scores.shape
        outputs = _best(scores.reshape(-1, n_outputs)).reshape(scores.shape)
        if not inputs:
            return cls(outputs)
        shape = (-1, n_inputs, groups, n_outputs // groups)
        grouped, covered = scores.reshape(shape), outputs.reshape(shape).any((0, 3))
        by_input = grouped.transpose(0, 3, 1, 2)
        best = _best(by_input.reshape(-1, n_inputs * groups)).reshape(by_input.shape)
        return cls(
            outputs, (best & ~covered).transpose(0, 2, 3, 1).reshape(scores.shape)
        )


def _best(columns):
    """Return which entry of each column is the highest, if one is left."""
    best = np.zeros(columns.shape, bool)
    rows, places = columns.argmax(0), np.arange(columns.shape[1])
    best[rows, places] = ~np.isneginf(columns[rows, places])
    return best


def allocate_above_floor(
    allocate: Callable, scores: Sequence[np.ndarray], sparsity: float
) -> list[int]:
    """Divide a sparsity so that no kernel is left with hardly any weights.

    A kernel that loses more than the uniform share keeps at least a fifth of the
    uniform density, and as many weights as it has inputs and outputs. What these
    limits keep is removed from the other kernels.

    Args:
        allocate: One of `ALLOCATIONS` or a function like them.
        scores: Arrays in the canonical layout, one for each kernel.
        sparsity: Float in [0, 1).

    Returns:
        Integers, how many entries to remove from each array.
    """
    limits = [_limit(score, sparsity) for score in scores]
    total = sum(score.size for score in scores)
    asked, counts = sparsity, [0]
    for _ in range(_ROUNDS):
        found = allocate(scores, asked)
        counts = [min(int(n), most) for n, most in zip(found, limits, strict=True)]
        missing = sparsity - sum(counts) / total
        if missing * total < 0.5 or sum(counts) == sum(found):
            break
        asked = min(asked + missing, 1.0 - 1.0 / total)
    return counts


def _limit(scores, sparsity):
    """Return the largest number of entries that a kernel may lose."""
    n_kept = max(0.2 * (1.0 - sparsity) * scores.size, sum(scores.shape[-2:]))
    return max(round(sparsity * scores.size), scores.size - round(n_kept))


def mask_above_floor(
    pattern: Any, scores: np.ndarray, n_removed: int, *, groups: int = 1
) -> np.ndarray:
    """Return the mask of a pattern that empties no output and no input.

    Args:
        pattern: A `Pattern`.
        scores: Float array `(..., inputs, outputs)`; `-inf` where a weight is already
            removed.
        n_removed: Integer, how many weights to remove, including those. Fewer are
            removed where an output would have no weight.
        groups: Integer, the groups of a grouped convolution. Defaults to `1`.

    Returns:
        Boolean array of the same shape, `True` where a weight is kept.

    Example:

    ```python
    pattern = keras_micronets.sparsity.Unstructured()
    mask_above_floor(pattern, np.array([[9.0, 1.0], [8.0, 2.0]]), 2)
    # [[True, False], [False, True]]
    ```
    """
    mask = pattern.mask(scores, n_removed)
    if not in_empty(mask, groups).any():
        return mask
    floor = pattern.floor(scores, groups=groups)
    n_removed = min(n_removed, scores.size - int(np.count_nonzero(floor.outputs)))
    stays = floor.outputs | floor.inputs
    if n_removed > scores.size - np.count_nonzero(stays):
        # Too few weights for all inputs: the others go first.
        scores = np.where(stays, scores, np.float32(-np.inf))
        stays = floor.outputs
    return pattern.mask(np.where(stays, np.float32(np.inf), scores), n_removed)


def in_empty(mask: np.ndarray, groups: int) -> np.ndarray:
    """Return which weights belong to an output or an input without any in a mask."""
    *_, n_inputs, n_outputs = mask.shape
    grouped = mask.reshape(-1, n_inputs, groups, n_outputs // groups)
    kept = grouped.any(0)
    empty = ~kept.any(axis=0) | ~kept.any(axis=-1, keepdims=True)
    return np.broadcast_to(empty, grouped.shape).reshape(mask.shape)
