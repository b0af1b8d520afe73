"""Choose within so many bytes, multiply-accumulates or milliseconds."""

from typing import Any

import numpy as np

from keras_micronets.selection.candidates import Candidates
from keras_micronets.selection.selection import Selection


def within_budget(
    probabilities: Any,
    y: Any,
    budget: float,
    *,
    costs: Any,
    random_state: Any = None,
) -> Selection:
    """Choose the members that are best together and cost no more than a budget.

    Learners are added one after the other as long as the negative log-likelihood of
    the mean probability falls: once those that lower it most, and once those that lower
    it most for what they cost. Either set is improved by adding, removing and
    exchanging single learners until nothing of that helps, and the better is kept. It
    need not be the best there is, which would take trying all, but no single step
    improves it.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`.
        y: Labels, sparse or one-hot; see `as_labels`.
        budget: Number, what the members may cost together, in the unit of `costs`.
        costs: Numbers of shape `(learners,)`, none negative: bytes, multiply-
            accumulates, milliseconds.
        random_state: Not used; here because all methods share one signature.

    Returns:
        A `Selection` with equal weights.

    Raises:
        ValueError: If no learner is cheap enough, costs are wrong, or data is bad.

    Example:

    ```python
    within_budget(probabilities, y, 300_000, costs=[x.gzip_bytes for x in pool])
    ```

    Reference: Khuller, Moss & Naor, "The Budgeted Maximum Coverage Problem", 1999
    (greedily by gain and by gain for the cost, the better of the two).
    """
    found = Candidates(probabilities, y)
    search = _Search(
        found, _check_costs(costs, budget, len(found))[found.order], budget
    )
    starts = [search.grown([], by_cost=False), search.grown([], by_cost=True)]
    best = min((search.improved(start) for start in starts), key=search.loss)
    return found.select(sorted(best), method="within_budget")


class _Search:
    """Sets of candidates, their losses, and the steps between them."""

    def __init__(self, found: Candidates, costs: np.ndarray, budget: float):
        self.likelihoods, self.costs, self.budget = found.likelihoods, costs, budget
        self.nothing = np.log(found.n_classes)  # what guessing loses

    def loss(self, members: list[int]) -> float:
        if not members:
            return self.nothing
        return float(-np.log(self.likelihoods[members].mean(axis=0)).mean())

    def grown(self, members: list[int], *, by_cost: bool) -> list[int]:
        """Add learners while that helps; the first in any case."""
        while True:
            losses = self._with_one_more(members)
            gains = self.loss(members) - losses
            worth = gains / np.maximum(self.costs, 1e-12) if by_cost else gains
            worth[~np.isfinite(losses)] = -np.inf
            best = int(worth.argmax())
            if not np.isfinite(losses[best]) or (members and gains[best] <= 1e-12):
                return members
            members = [*members, best]

    def improved(self, members: list[int]) -> list[int]:
        """Add, remove or exchange one learner at a time while that helps."""
        while True:
            steps = [members, *self._neighbours(members)]
            best = min(steps, key=self.loss)
            if self.loss(best) >= self.loss(members) - 1e-12:
                return members
            members = best

    def _neighbours(self, members: list[int]) -> list[list[int]]:
        """Give the best set after an addition, after each removal and exchange."""
        fewer = [[m for m in members if m != out] for out in members]
        wider = [self._best_addition(rest) for rest in [members, *fewer]]
        return [step for step in fewer + wider if step]

    def _best_addition(self, members: list[int]) -> list[int]:
        losses = self._with_one_more(members)
        best = int(losses.argmin())
        return [*members, best] if np.isfinite(losses[best]) else members

    def _with_one_more(self, members: list[int]) -> np.ndarray:
        """Return the loss with each learner added; infinity where none may be."""
        losses = np.full(len(self.costs), np.inf)
        left = self.budget - self.costs[members].sum()
        free = np.flatnonzero(self.costs <= left * (1 + 1e-12))
        free = np.setdiff1d(free, members)
        together = self.likelihoods[members].sum(axis=0)
        means = (self.likelihoods[free] + together) / (len(members) + 1)
        losses[free] = -np.log(means).mean(axis=1)
        return losses


def _check_costs(costs: Any, budget: float, n_learners: int) -> np.ndarray:
    costs = np.asarray(costs, float)
    if costs.shape != (n_learners,):
        raise ValueError(
            f"Expected costs of shape ({n_learners},), one a learner. "
            f"Received: shape {costs.shape}."
        )
    if not (np.isfinite(costs).all() and (costs >= 0).all()):
        raise ValueError(
            "Expected finite costs, none negative. "
            f"Received: {costs[~(np.isfinite(costs) & (costs >= 0))][0]}."
        )
    if not costs.min() <= budget:
        raise ValueError(
            f"Expected a budget that a learner fits in: the cheapest costs "
            f"{costs.min():g}. Received: {budget=}."
        )
    return costs
