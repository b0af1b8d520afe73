"""Which of several numbers are the lowest, whatever rounding makes of equal ones."""

import numpy as np

# Sums of the same terms in another order differ by less, losses that matter by more.
_ROUNDING = 1e-12


def lowest(values: np.ndarray) -> np.ndarray:
    """Say which values are the lowest; those that differ by rounding alone are equal.

    Args:
        values: Float array of shape `(candidates,)`, of the order of one.

    Returns:
        Boolean array of the same shape; its `argmax()` is the first that is lowest.
    """
    return values <= values.min() + _ROUNDING
