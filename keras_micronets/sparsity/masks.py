import numpy as np


def keep_largest(scores: np.ndarray, n_removed: int) -> np.ndarray:
    """Return the mask that removes the entries with the smallest scores.

    Args:
        scores: Float array of any shape.
        n_removed: Integer, how many entries to remove; that many are, ties or not.

    Returns:
        Boolean array of the shape of `scores`, `True` where an entry is kept.

    Example:

    ```python
    keep_largest(np.array([3.0, 1.0, 2.0]), 1)  # [True, False, True]
    ```
    """
    mask = np.ones(scores.size, bool)
    if n_removed > 0:
        smallest = np.argpartition(scores, n_removed - 1, axis=None)[:n_removed]
        mask[smallest] = False
    return mask.reshape(scores.shape)
