from dataclasses import dataclass
from itertools import combinations

import numpy as np

from keras_micronets.sparsity.masks import keep_largest


@dataclass(frozen=True)
class Unstructured:
    """Remove single weights, wherever they lie.

    Example:

    ```python
    Unstructured().mask(np.array([[3.0, 1.0], [2.0, 4.0]]), 2)
    # [[True, False], [False, True]]
    ```
    """

    def mask(self, scores: np.ndarray, n_removed: int) -> np.ndarray:
        """Return the mask that removes the lowest scores, exactly so many.

        Args:
            scores: Float array; `-inf` where a weight is removed already.
            n_removed: Integer, how many weights the mask removes.

        Returns:
            Boolean array of the same shape, `True` where a weight is kept.
        """
        return keep_largest(scores, n_removed)

    def pooled(self, scores: np.ndarray) -> np.ndarray:
        """Return the scores by which an allocation compares kernels."""
        return scores


@dataclass(frozen=True)
class NofM:
    """Keep at most N of each M weights that follow each other along the input.

    The mask follows the count asked for. First go the weights outside the best N of
    each M, the lowest first; once they are gone, at a sparsity of (M - N) / M, each M
    weights keep N. Beyond that the lowest of the rest go, and the rule still holds.
    Where the input is no multiple of M, its last few weights count as one more M
    padded with zeros. A kernel of single inputs, as a depthwise one, has nothing to
    choose among and is pruned unstructured.

    The rule needs every kernel to lose its (M - N) / M: combine it with the uniform
    allocation. Zeros that lie otherwise before (from unstructured pruning) stay,
    and may push the sparsity at which the rule holds beyond (M - N) / M.

    Args:
        n: Integer, how many weights to keep.
        m: Integer, of how many.

    Raises:
        ValueError: If not 0 < n < m.

    Example:

    ```python
    NofM(2, 4).mask(np.array([[1.0], [4.0], [3.0], [2.0]]), 2)
    # [[False], [True], [True], [False]]
    ```

    Reference: Mishra et al. 2021, "Accelerating sparse deep neural networks".
    """

    n: int
    m: int

    def __post_init__(self):
        if not 0 < self.n < self.m:
            raise ValueError(
                "Expected to keep n of m weights with 0 < n < m, as NofM(2, 4). "
                f"Received: n={self.n}, m={self.m}."
            )

    def mask(self, scores: np.ndarray, n_removed: int) -> np.ndarray:
        """Return the mask that removes exactly so many weights.

        Args:
            scores: Float array of shape `(..., inputs, outputs)`; `-inf` where a
                weight is removed already.
            n_removed: Integer, how many weights the mask removes.

        Returns:
            Boolean array of the same shape, `True` where a weight is kept.
        """
        outside = _ranks(scores, self.m) >= self.n
        first = outside | np.isneginf(scores)
        if n_removed <= np.count_nonzero(first):
            candidates = np.where(first, scores, np.float32(np.inf))
        else:
            candidates = np.where(first, np.float32(-np.inf), scores)
        return keep_largest(candidates, n_removed)

    def pooled(self, scores: np.ndarray) -> np.ndarray:
        """Return the scores by which an allocation compares kernels."""
        return scores


def _ranks(scores, m):
    """Rank each entry among the `m` of its group, 0 the highest."""
    *leading, n_inputs, n_outputs = scores.shape
    missing = -n_inputs % m
    if missing:
        padding = [(0, 0)] * len(leading) + [(0, missing), (0, 0)]
        scores = np.pad(scores, padding, constant_values=-np.inf)
    grouped = scores.reshape(*leading, -1, m, n_outputs)
    ranks = np.zeros(grouped.shape, np.min_scalar_type(m))
    for i, j in combinations(range(m), 2):
        wins = grouped[..., i, :] > grouped[..., j, :]
        ranks[..., j, :] += wins
        ranks[..., i, :] += ~wins
    ranks = ranks.reshape(*leading, n_inputs + missing, n_outputs)
    return ranks[..., :n_inputs, :]


class Units:
    """Base of the patterns whose units of several weights stay or go as one."""

    def units(
        self, scores: np.ndarray, alive: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean score of each unit, and how many weights are left of it."""
        raise NotImplementedError

    def spread(self, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Return an array of a kernel's shape with each unit's value at its weights."""
        raise NotImplementedError

    def mask(self, scores: np.ndarray, n_removed: int) -> np.ndarray:
        """Return the mask that removes so many weights, within half a unit.

        One unit always stays, unless `n_removed` is all weights.

        Args:
            scores: Float array of shape `(..., inputs, outputs)`; `-inf` where a
                weight is removed already.
            n_removed: Integer, how many weights the mask removes.

        Returns:
            Boolean array of the same shape, `True` where a weight is kept.
        """
        alive = ~np.isneginf(scores)
        means, live = self.units(scores, alive)
        n_dead = scores.size - np.count_nonzero(alive)
        kept = keep_best_units(means, live, n_dead=n_dead, n_removed=n_removed)
        return self.spread(kept, scores.shape) & alive

    def pooled(self, scores: np.ndarray) -> np.ndarray:
        """Return the units' means, by which an allocation compares kernels."""
        alive = ~np.isneginf(scores)
        means, _ = self.units(scores, alive)
        return np.where(alive, self.spread(means, scores.shape), np.float32(-np.inf))


def mean_of_live(sums: np.ndarray, live: np.ndarray, size) -> np.ndarray:
    """Return the mean score of each unit, `-inf` where nothing of it is left.

    Args:
        sums: Float array, the sum of the scores that are left, one a unit.
        live: Integer array of the same shape, how many weights are left.
        size: Integer or array that broadcasts, how many weights a unit has; those
            that are removed already count as zeros.
    """
    return np.where(live > 0, sums / np.float32(size), np.float32(-np.inf))


def keep_best_units(
    scores: np.ndarray, live: np.ndarray, *, n_dead: int, n_removed: int
) -> np.ndarray:
    """Return which units to keep so that so many weights are removed, nearly.

    The units with the lowest scores go, as many as come nearest to the number of
    weights asked for. One unit stays unless all weights shall go.

    Args:
        scores: Float array, one a unit.
        live: Integer array of the same shape, how many weights of a unit are left.
        n_dead: Integer, how many weights are removed already.
        n_removed: Integer, how many weights shall be removed, those included.

    Returns:
        Boolean array of the shape of `scores`, `True` where a unit is kept.
    """
    order = np.argsort(scores, axis=None)
    costs = live.ravel()[order]
    after = n_dead + np.cumsum(costs)
    n_units = int(np.searchsorted(after - costs / 2, n_removed, side="right"))
    if n_removed < after[-1]:
        n_units = min(n_units, order.size - 1)
    mask = np.ones(scores.size, bool)
    mask[order[:n_units]] = False
    return mask.reshape(scores.shape)


@dataclass(frozen=True)
class Block(Units):
    """Remove blocks of weights that follow each other along the input.

    LiteRT runs fully connected layers with such blocks sparse: of 4 in float, of 16
    in int8. Blocks are compared by the mean score of their weights. Where the
    input is no multiple of the size, the last block of each output is shorter. Zeros
    that lie otherwise before (from unstructured pruning) stay.

    Args:
        size: Integer, weights a block.

    Raises:
        ValueError: If the size is not positive.

    Example:

    ```python
    Block(2).mask(np.array([[1.0], [4.0], [3.0], [3.0]]), 2)
    # [[False], [False], [True], [True]]
    ```
    """

    size: int

    def __post_init__(self):
        if self.size < 1:
            raise ValueError(
                "Expected blocks of 1 or more weights, as Block(4). "
                f"Received: size={self.size}."
            )

    def units(self, scores, alive):
        n_inputs = scores.shape[-2]
        starts = np.arange(0, n_inputs, self.size)
        lengths = np.minimum(self.size, n_inputs - starts)[:, None]
        live = np.add.reduceat(alive, starts, axis=-2, dtype=np.int32)
        scores = np.where(alive, scores, np.float32(0))
        sums = np.add.reduceat(scores, starts, axis=-2)
        return mean_of_live(sums, live, lengths), live

    def spread(self, values, shape):
        return np.repeat(values, self.size, axis=-2)[..., : shape[-2], :]


@dataclass(frozen=True)
class Channels(Units):
    """Remove whole outputs of a kernel: filters of a convolution, units of a Dense.

    Channels are compared by the mean score of their weights. Leave out the last
    layer (`layers.Scope(last=False)`), whose outputs are the classes. The layers keep
    their shapes: what is removed is zeros. Zeros that lie otherwise before stay.

    Example:

    ```python
    Channels().mask(np.array([[1.0, 3.0], [4.0, 3.0]]), 2)
    # [[False, True], [False, True]]
    ```
    """

    def units(self, scores, alive):
        axes = tuple(range(scores.ndim - 1))
        live = np.count_nonzero(alive, axis=axes)
        sums = np.sum(scores, axis=axes, where=alive)
        return mean_of_live(sums, live, scores.size // scores.shape[-1]), live

    def spread(self, values, shape):
        return np.broadcast_to(values, shape)
