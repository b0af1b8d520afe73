import numpy as np


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
