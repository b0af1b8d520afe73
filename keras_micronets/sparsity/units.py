import numpy as np


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
