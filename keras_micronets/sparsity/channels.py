from dataclasses import dataclass

import numpy as np

from keras_micronets.sparsity.units import keep_best_units, mean_of_live


@dataclass(frozen=True)
class Channels:
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

    def mask(self, scores: np.ndarray, n_removed: int) -> np.ndarray:
        """Return the mask that removes so many weights, within half a channel.

        One channel always stays, unless `n_removed` is all weights.

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
        return alive & kept

    def pooled(self, scores: np.ndarray) -> np.ndarray:
        """Return the channels' means, by which an allocation compares kernels."""
        alive = ~np.isneginf(scores)
        means, _ = self._units(scores, alive)
        return np.where(alive, means, np.float32(-np.inf))

    def _units(self, scores, alive):
        axes = tuple(range(scores.ndim - 1))
        live = np.count_nonzero(alive, axis=axes)
        sums = np.sum(scores, axis=axes, where=alive)
        return mean_of_live(sums, live, scores.size // scores.shape[-1]), live
