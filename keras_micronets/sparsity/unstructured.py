from dataclasses import dataclass

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
