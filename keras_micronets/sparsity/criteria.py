import numpy as np


def magnitude(weights: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Score weights by their magnitude; those already removed score lowest.

    Args:
        weights: Float array, the raw weights.
        mask: Boolean array of the same shape, `True` where a weight is kept now.

    Returns:
        Float array of the same shape: -1 where the mask removes.
    """
    return np.where(mask, np.abs(weights), np.float32(-1))
