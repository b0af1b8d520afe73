from dataclasses import dataclass
from itertools import combinations

import numpy as np

from keras_micronets.sparsity.masks import keep_largest


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
