"""Allocate a budget to groups: how many channels of each to keep."""

from collections.abc import Mapping, Sequence

import numpy as np

from keras_micronets.channels.counts import Counts

__all__ = ["allocate", "allocate_uniformly"]

# The importance of a channel grows as its group becomes narrower, with this power of
# the group's relative width: a network's error falls with a power of its width.
WIDTH_POWER = 2
# How many moves of `refine` are counted exactly, and the estimated excess (a logarithm)
# up to which a move is considered.
N_EXACT, MAX_EXCESS = 24, 0.02


def allocate(
    counts: Counts,
    importance: Sequence[np.ndarray],
    limits: Mapping[str, float],
    *,
    min_channels: np.ndarray,
    round_to: int | np.ndarray,
) -> np.ndarray:
    """Return how many channels of each group to keep for the highest importance.

    Runs of `round_to` channels are removed one by one, always the run of the lowest
    importance for its cost. Costs are weighted by how far each budget is exceeded, so
    that all budgets are reached together. Then runs are added or exchanged as long as
    that uses more of the budgets.

    Args:
        counts: The `Counts` of the model.
        importance: Float array `(channels,)` for each group, in descending order, the
            mean about 1.
        limits: Dictionary from a quantity of `Counts` to the largest number allowed.
        min_channels: Integer array `(groups,)`, how many channels have to stay.
        round_to: Integer, or an array of one for each group: the kept numbers are
            multiples of it where a group has enough channels.

    Returns:
        Integer array `(groups,)`. It exceeds a limit only if nothing is left to remove.
    """
    search = _Search(counts, importance, limits, min_channels, round_to)
    return search.refine(search.shrink(counts.full.copy()))


def allocate_uniformly(
    counts: Counts,
    limits: Mapping[str, float],
    *,
    min_channels: np.ndarray,
    round_to: int | np.ndarray,
) -> np.ndarray:
    """Return the widths at which every group keeps the same share of its channels."""
    kept, full = min_channels, counts.full
    for share in np.linspace(0, 1, 1001):
        widths = np.round(full * share / round_to) * round_to
        widths = np.minimum(np.maximum(widths, min_channels), full).astype(int)
        if any(counts.total(name, widths) > limit for name, limit in limits.items()):
            break
        kept = widths
    return kept


class _Search:
    def __init__(self, counts, importance, limits, min_channels, round_to):
        self.counts, self.limits = counts, limits
        self.min_channels, self.round_to = min_channels, round_to
        self.sums = [
            np.concatenate([[0.0], np.cumsum(scores)]) for scores in importance
        ]

    def shrink(self, kept):
        """Remove runs until all limits are met, or nothing is left to remove."""
        while self.excess(kept).max() > 0:
            fewer = self._fewer(kept)
            if (fewer == kept).all():
                break
            saved = self._shares(kept).T @ self.excess(kept) * (kept - fewer)
            runs = enumerate(zip(kept, fewer, strict=True))
            costs = np.array([self._loss(group, *run) for group, run in runs])
            costs = np.where(fewer < kept, costs / np.maximum(saved, 1e-12), np.inf)
            cheapest = int(costs.argmin())
            kept[cheapest] = fewer[cheapest]
        return kept

    def refine(self, kept):
        """Use more of the limits without exceeding them, one or two runs at a time."""
        while True:
            moves = self._moves(kept)
            distances = [self._distance(move) for move in moves]
            if not moves or min(distances) >= self._distance(kept) - 1e-9:
                return kept
            kept = moves[int(np.argmin(distances))]

    def excess(self, kept):
        """Return by how much each limit is exceeded, as a logarithm."""
        totals = [self.counts.total(name, kept) for name in self.limits]
        return np.log(np.maximum(totals, 1e-9) / np.array([*self.limits.values()]))

    def _shares(self, kept):
        """Return one channel's share of each total, by group: `(limits, groups)`."""
        counts = self.counts
        shares = [counts.marginal(x, kept) / counts.total(x, kept) for x in self.limits]
        return np.stack(shares)

    def _fewer(self, kept):
        fewer = (kept - 1) // self.round_to * self.round_to
        return np.where(fewer >= self.min_channels, fewer, kept)

    def _more(self, kept):
        more = (kept // self.round_to + 1) * self.round_to
        return np.minimum(more, self.counts.full)

    def _loss(self, group, kept, fewer):
        width = kept / max(self.counts.full[group], 1)
        return (self.sums[group][kept] - self.sums[group][fewer]) / width**WIDTH_POWER

    def _distance(self, kept):
        """Return how far all totals are below their limits; infinite if any is over.

        Of equal totals, that of more channels is nearer: some cost no time.
        """
        excess = self.excess(kept)
        return -excess.sum() - 1e-7 * kept.sum() if excess.max() <= 0 else np.inf

    def _moves(self, kept):
        """Return the moves in one or two groups that use most by an estimate."""
        n, fewer, more = len(kept), self._fewer(kept), self._more(kept)
        steps = np.stack([kept, fewer, more]) - kept
        changes = steps * self._shares(kept)[:, None]
        if self.counts.latency and "latency" in self.limits:  # it changes by blocks
            further = np.stack([self._fewer(fewer), self._more(more)])
            steps = np.concatenate([steps, further - kept])
            changes = steps * self._shares(kept)[:, None]
            times = self.counts.latency.total(kept + steps[..., None] * np.eye(n))
            changes[[*self.limits].index("latency")] = np.log(times / times[0])
        changes = changes.reshape(len(self.limits), -1)
        pairs = changes[:, :, None] + changes[:, None, :]
        excess = self.excess(kept)[:, None, None] + pairs
        distances = np.abs(excess).sum(axis=0)
        estimates = np.where(excess.max(axis=0) < MAX_EXCESS, distances, np.inf)
        order = np.argsort(estimates, axis=None)[: 4 * N_EXACT]
        moves = {}
        for first, second in np.stack(np.unravel_index(order, pairs.shape[1:])).T:
            moved = kept.copy()
            for group in {first % n, second % n}:
                rows = {i // n for i in (first, second) if i % n == group}
                moved[group] += steps[max(rows), group]
            moves[moved.tobytes()] = moved
        return list(moves.values())[:N_EXACT]
