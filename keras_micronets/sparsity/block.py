from dataclasses import dataclass

import numpy as np

from keras_micronets.sparsity.units import keep_best_units, mean_of_live


@dataclass(frozen=True)
class Block:
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

    def mask(self, scores: np.ndarray, n_removed: int) -> np.ndarray:
        """Return the mask that removes so many weights, within half a block.

        One block always stays, unless `n_removed` is all weights.

        Args:
            scores: Float array of shape `(..., inputs, outputs)`; `-inf` where a
                weight is removed already.
            n_removed: Integer, how many weights the mask removes.

        Returns:
            Boolean array of the same shape, `True` where a weight is kept.
        """
        alive = ~np.isneginf(scores)
        means, live = self._units(scores, alive)
        n_dead = scores.size - np.count_nonzero(alive)
        kept = keep_best_units(means, live, n_dead=n_dead, n_removed=n_removed)
        return self._spread(kept, scores.shape) & alive

    def pooled(self, scores: np.ndarray) -> np.ndarray:
        """Return the blocks' means, by which an allocation compares kernels."""
        alive = ~np.isneginf(scores)
        means, _ = self._units(scores, alive)
        return np.where(alive, self._spread(means, scores.shape), np.float32(-np.inf))

    def _units(self, scores, alive):
        n_inputs = scores.shape[-2]
        starts = np.arange(0, n_inputs, self.size)
        lengths = np.minimum(self.size, n_inputs - starts)[:, None]
        live = np.add.reduceat(alive, starts, axis=-2, dtype=np.int32)
        scores = np.where(alive, scores, np.float32(0))
        sums = np.add.reduceat(scores, starts, axis=-2)
        return mean_of_live(sums, live, lengths), live

    def _spread(self, values, shape):
        return np.repeat(values, self.size, axis=-2)[..., : shape[-2], :]
