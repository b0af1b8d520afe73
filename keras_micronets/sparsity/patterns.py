"""Patterns: the groups of weights that are removed together.

Patterns read kernels in the canonical layout, whose last two axes are the inputs and
the outputs.
"""

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from keras_micronets._serialization import Configurable, serializable
from keras_micronets.sparsity.floors import Floor
from keras_micronets.sparsity.masks import keep_largest

__all__ = ["Block", "Channels", "NofM", "Pattern", "Units", "Unstructured"]


class Pattern(Configurable):
    """Base class of the patterns."""

    def mask(self, scores: np.ndarray, n_removed: int) -> np.ndarray:
        """Return the mask that removes a number of weights.

        Args:
            scores: Float array of shape `(..., inputs, outputs)`; `-inf` where a
                weight is already removed.
            n_removed: Integer, how many weights the mask removes, including those.
                Patterns of units remove the number that is nearest to it.

        Returns:
            Boolean array of the same shape, `True` where a weight is kept.
        """
        raise NotImplementedError

    def pooled(self, scores: np.ndarray) -> np.ndarray:
        """Return the scores by which an allocation compares kernels."""
        return scores

    def floor(self, scores: np.ndarray, *, groups: int = 1) -> Floor:
        """Return the weights that stay so that no output and no input is emptied.

        Args:
            scores: As for `mask`.
            groups: Integer, the groups of a grouped convolution. Defaults to `1`.
        """
        return Floor.of(scores, groups=groups)


@serializable()
@dataclass(frozen=True)
class Unstructured(Pattern):
    """Remove single weights, in any position.

    Example:

    ```python
    pattern = keras_micronets.sparsity.Unstructured()
    pattern.mask(np.array([[3.0, 1.0], [2.0, 4.0]]), 2)
    # [[True, False], [False, True]]
    ```
    """

    def mask(self, scores: np.ndarray, n_removed: int) -> np.ndarray:
        return keep_largest(scores, n_removed)


@serializable()
@dataclass(frozen=True)
class NofM(Pattern):
    """Keep at most N of every M consecutive weights along the input.

    The mask removes exactly the requested number of weights. First it removes weights
    outside the best N of their M, the lowest scores first; from a sparsity of
    (M - N) / M on, every M weights keep at most N. If the number of inputs is not a
    multiple of M, the last weights count as M padded with zeros. A kernel with a
    single input, such as a depthwise one, is pruned unstructured.

    Every kernel has to lose (M - N) / M of its weights: combine this pattern with the
    uniform allocation. Zeros from earlier unstructured pruning stay, and may raise
    the sparsity from which the rule holds.

    Args:
        n: Integer, how many weights to keep.
        m: Integer, of how many.

    Raises:
        ValueError: If not 0 < n < m.

    Example:

    ```python
    pattern = keras_micronets.sparsity.NofM(2, 4)
    pattern.mask(np.array([[1.0], [4.0], [3.0], [2.0]]), 2)
    # [[False], [True], [True], [False]]
    ```

    Reference: Mishra et al. 2021, "Accelerating sparse deep neural networks".
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 0 < self.n < self.m:
            raise ValueError(
                "Expected to keep n of m weights with 0 < n < m, as NofM(2, 4). "
                f"Received: n={self.n}, m={self.m}."
            )

    def mask(self, scores: np.ndarray, n_removed: int) -> np.ndarray:
        outside = _ranks(scores, self.m) >= self.n
        first = outside | np.isneginf(scores)
        if n_removed <= np.count_nonzero(first):
            candidates = np.where(first, scores, np.float32(np.inf))
        else:
            candidates = np.where(first, np.float32(-np.inf), scores)
        return keep_largest(candidates, n_removed)

    def floor(self, scores: np.ndarray, *, groups: int = 1) -> Floor:
        return Floor.of(scores, inputs=False)  # those of inputs may break the rule


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


class Units(Pattern):
    """Base class of the patterns that remove units of several weights.

    The number of removed weights is met within half a unit. At least one unit stays,
    unless all weights are to be removed.
    """

    def units(
        self, scores: np.ndarray, alive: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean score of each unit, and how many of its weights are left."""
        raise NotImplementedError

    def spread(self, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Return an array of a kernel's shape with each unit's value at its weights."""
        raise NotImplementedError

    def mask(self, scores: np.ndarray, n_removed: int) -> np.ndarray:
        alive = ~np.isneginf(scores)
        means, live = self.units(scores, alive)
        n_dead = scores.size - np.count_nonzero(alive)
        kept = _best_units(means, live, n_dead=n_dead, n_removed=n_removed)
        return self.spread(kept, scores.shape) & alive

    def pooled(self, scores: np.ndarray) -> np.ndarray:
        alive = ~np.isneginf(scores)
        means, _ = self.units(scores, alive)
        return np.where(alive, self.spread(means, scores.shape), np.float32(-np.inf))


def _mean_of_live(sums, live, size):
    """Return the mean score of each unit, `-inf` where no weight of it is left.

    Removed weights count as zeros: `size` is the number of weights of a whole unit.
    """
    return np.where(live > 0, sums / np.float32(size), np.float32(-np.inf))


def _best_units(scores, live, *, n_dead, n_removed):
    """Return which units to keep so that about `n_removed` weights are removed."""
    order = np.argsort(scores, axis=None)
    costs = live.ravel()[order]
    after = n_dead + np.cumsum(costs)
    n_units = int(np.searchsorted(after - costs / 2, n_removed, side="right"))
    if n_removed < after[-1]:
        n_units = min(n_units, order.size - 1)
    mask = np.ones(scores.size, bool)
    mask[order[:n_units]] = False
    return mask.reshape(scores.shape)


@serializable()
@dataclass(frozen=True)
class Block(Units):
    """Remove blocks of consecutive weights along the input.

    LiteRT has sparse fully connected kernels for such blocks: of 4 weights in float,
    of 16 in int8. Blocks are compared by the mean score of their weights. If the
    number of inputs is not a multiple of the size, the last block of each output is
    shorter. Zeros from earlier pruning stay.

    Args:
        size: Integer, weights in a block.

    Raises:
        ValueError: If the size is not positive.

    Example:

    ```python
    pattern = keras_micronets.sparsity.Block(2)
    pattern.mask(np.array([[1.0], [4.0], [3.0], [3.0]]), 2)
    # [[False], [False], [True], [True]]
    ```
    """

    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(
                "Expected blocks of 1 or more weights, as Block(4). "
                f"Received: size={self.size}."
            )

    def units(
        self, scores: np.ndarray, alive: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        n_inputs = scores.shape[-2]
        starts = np.arange(0, n_inputs, self.size)
        lengths = np.minimum(self.size, n_inputs - starts)[:, None]
        live = np.add.reduceat(alive, starts, axis=-2, dtype=np.int32)
        scores = np.where(alive, scores, np.float32(0))
        sums = np.add.reduceat(scores, starts, axis=-2)
        return _mean_of_live(sums, live, lengths), live

    def spread(self, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return np.repeat(values, self.size, axis=-2)[..., : shape[-2], :]

    def floor(self, scores: np.ndarray, *, groups: int = 1) -> Floor:
        alive = ~np.isneginf(scores)
        means, _ = self.units(scores, alive)
        blocks = Floor.of(means, groups=groups)
        outputs, inputs = (
            self.spread(x, scores.shape) & alive
            for x in (blocks.outputs, blocks.inputs)
        )
        return Floor(outputs, inputs)


@serializable()
@dataclass(frozen=True)
class Channels(Units):
    """Remove whole outputs of a kernel: filters of a convolution, units of a Dense.

    Channels are compared by the mean score of their weights. Exclude the last layer
    (`layers.Scope(last=False)`), whose outputs are the classes. Layers keep their
    shapes: removed channels are zeros. Zeros from earlier pruning stay.

    Example:

    ```python
    pattern = keras_micronets.sparsity.Channels()
    pattern.mask(np.array([[1.0, 3.0], [4.0, 3.0]]), 2)
    # [[False, True], [False, True]]
    ```
    """

    def units(self, scores: np.ndarray, alive: np.ndarray) -> tuple[np.ndarray, Any]:
        axes = tuple(range(scores.ndim - 1))
        live = np.count_nonzero(alive, axis=axes)
        sums = np.sum(scores, axis=axes, where=alive)
        return _mean_of_live(sums, live, scores.size // scores.shape[-1]), live

    def spread(self, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return np.broadcast_to(values, shape)

    def floor(self, scores: np.ndarray, *, groups: int = 1) -> Floor:
        return Floor(np.zeros(scores.shape, bool))  # emptying outputs is the pattern
