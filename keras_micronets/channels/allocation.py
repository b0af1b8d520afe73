"""How many channels of each group to keep, for the best scores within a budget."""

from collections.abc import Mapping, Sequence

import numpy as np

from keras_micronets.channels.counts import Counts

# What a channel is worth grows as its group becomes narrower, by this power of the
# share that is left: the error of networks falls with a power of their width.
BALANCE = 2
# How many moves are counted exactly, and by how much they may seem to be too much.
N_EXACT, SLACK = 24, 0.02


def solve(
    counts: Counts,
    scores: Sequence[np.ndarray],
    limits: Mapping[str, float],
    *,
    min_channels: np.ndarray,
    step: int,
) -> np.ndarray:
    """Return how many channels of each group are kept.

    Runs of `step` channels are taken away one after the other, always that which
    loses least for what it saves. What is saved counts for each budget as much as is
    still missing, which leads to all budgets at one time. Then runs are given back or
    exchanged, as long as that comes closer to the budgets from below.

    Args:
        counts: The `Counts` of the model.
        scores: One descending float array `(channels,)` a group, the mean about 1.
        limits: Dictionary from `"params"` or `"macs"` to the most that may be left.
        min_channels: Integer array `(groups,)`, how many channels have to stay.
        step: Integer, of which kept numbers are multiples where a group has
            channels enough.

    Returns:
        Integer array `(groups,)`. It exceeds a budget only where nothing is left to
        take away.
    """
    search = _Search(counts, scores, limits, min_channels, step)
    return search.refine(search.shrink(counts.full.copy()))


def solve_uniformly(
    counts: Counts, limits: Mapping[str, float], *, min_channels: np.ndarray, step: int
) -> np.ndarray:
    """Return how many channels of each group are kept if all keep the same share.

    Args:
        counts, limits, min_channels, step: As for `solve`.
    """
    kept = min_channels
    for share in np.linspace(0, 1, 1001):
        widths = np.maximum(np.round(counts.full * share / step) * step, min_channels)
        widths = np.minimum(widths, counts.full).astype(int)
        if any(counts.total(kind, widths) > limit for kind, limit in limits.items()):
            break
        kept = widths
    return kept


class _Search:
    def __init__(self, counts, scores, limits, min_channels, step):
        self.counts, self.limits, self.min_channels, self.step = (
            counts,
            limits,
            min_channels,
            step,
        )
        self.sums = [np.concatenate([[0.0], np.cumsum(own)]) for own in scores]

    def shrink(self, kept):
        """Take runs away until every budget is met, or nothing is left to take."""
        while self.excess(kept).max() > 0:
            fewer = self._fewer(kept)
            if (fewer == kept).all():
                break
            saved = self._shares(kept).T @ self.excess(kept) * (kept - fewer)
            costs = np.array(
                [self._loss(*run) for run in enumerate(zip(kept, fewer, strict=True))]
            )
            costs = np.where(fewer < kept, costs / np.maximum(saved, 1e-12), np.inf)
            chosen = int(costs.argmin())
            kept[chosen] = fewer[chosen]
        return kept

    def refine(self, kept):
        """Come closer to the budgets from below, by moves of one or two runs."""
        while True:
            moves = self._moves(kept)
            distances = [self._distance(move) for move in moves]
            if not moves or min(distances) >= self._distance(kept) - 1e-9:
                return kept
            kept = moves[int(np.argmin(distances))]

    def excess(self, kept):
        """By how much each budget is exceeded, as a logarithm; below 0 if it is met."""
        totals = [self.counts.total(kind, kept) for kind in self.limits]
        return np.log(np.maximum(totals, 1e-9) / np.array([*self.limits.values()]))

    def _shares(self, kept):
        """What one channel of each group is of each total, `(budgets, groups)`."""
        return np.stack(
            [
                self.counts.marginal(kind, kept) / self.counts.total(kind, kept)
                for kind in self.limits
            ]
        )

    def _fewer(self, kept):
        fewer = (kept - 1) // self.step * self.step
        return np.where(fewer >= self.min_channels, fewer, kept)

    def _more(self, kept):
        return np.minimum((kept // self.step + 1) * self.step, self.counts.full)

    def _loss(self, group, run):
        kept, fewer = run
        left = kept / max(self.counts.full[group], 1)
        return (self.sums[group][kept] - self.sums[group][fewer]) / left**BALANCE

    def _distance(self, kept):
        """How far below its budgets a choice is; infinite above them."""
        excess = self.excess(kept)
        return -excess.sum() if excess.max() <= 0 else np.inf

    def _moves(self, kept):
        """Choices a run away, or two, that seem to come closest to the budgets."""
        n, shares = len(kept), self._shares(kept)
        steps = np.stack(
            [np.zeros(n, int), self._fewer(kept) - kept, self._more(kept) - kept]
        )
        changes = (steps[:, None] * shares).transpose(1, 0, 2).reshape(len(shares), -1)
        both = changes[:, :, None] + changes[:, None, :]
        after = self.excess(kept)[:, None, None] + both
        worst, far = after.max(axis=0), np.abs(after).sum(axis=0)
        near = np.where(worst < SLACK, far, np.inf)  # what is seen is linear
        order = np.argsort(near, axis=None)[: 4 * N_EXACT]
        moves = {}
        for first, second in zip(*np.unravel_index(order, far.shape), strict=True):
            moved = kept.copy()
            for index in {first % n, second % n}:
                rows = {i // n for i in (first, second) if i % n == index}
                moved[index] += steps[max(rows), index]
            moves[moved.tobytes()] = moved
        return list(moves.values())[:N_EXACT]
