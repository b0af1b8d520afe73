"""Choose members within a budget of bytes, multiply-accumulates or milliseconds."""

from typing import Any

import numpy as np

from keras_micronets.selection.candidates import Candidates
from keras_micronets.selection.selection import Selection

__all__ = ["within_budget"]

_ROUNDING = 1e-12


def within_budget(
    probabilities: Any,
    y: Any,
    budget: float,
    *,
    costs: Any,
    random_state: Any = None,
) -> Selection:
    """Choose the members of the lowest loss together that cost at most a budget.

    Learners are added one at a time while the negative log-likelihood of the mean
    probability falls: in one set by the gain, in another by the gain per cost. Each set
    is improved by adding, removing and exchanging single learners until no step helps,
    and the better set is kept. It is a local optimum: no single step improves it.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`.
        y: Labels, sparse or one-hot; see `as_labels`.
        budget: Number, the highest total cost of the members, in the unit of `costs`.
        costs: Non-negative numbers of shape `(learners,)`: bytes, multiply-
            accumulates or milliseconds.
        random_state: Ignored: the method is deterministic. Defaults to `None`.

    Returns:
        A `Selection` with equal weights.

    Raises:
        ValueError: If every learner exceeds the budget, costs are invalid, or the data
            is invalid.

    Example:

    ```python
    n_bytes = np.linspace(50_000, 200_000, len(probabilities))
    within_budget(probabilities, y, 300_000, costs=n_bytes).indices
    ```

    Reference: Khuller, Moss & Naor, "The Budgeted Maximum Coverage Problem", 1999
    (greedily by gain and by gain per cost, the better of the two).
    """
    candidates = Candidates(probabilities, y)
    costs = _check_costs(costs, budget, len(candidates))
    search = _LocalSearch(candidates, costs[candidates.order], budget)
    starts = [search.grow([], per_cost=False), search.grow([], per_cost=True)]
    best = min((search.improve(start) for start in starts), key=search.loss)
    return candidates.select(sorted(best), method="within_budget")


class _LocalSearch:
    """Sets of candidates, their losses, and the steps between them."""

    def __init__(self, candidates: Candidates, costs: np.ndarray, budget: float):
        self.candidates, self.terms = candidates, candidates.terms
        self.costs, self.budget = costs, budget

    def loss(self, members: list[int]) -> float:
        if not members:
            return self.candidates.targets.loss_of_chance
        return float(self._loss(self.terms[members].mean(axis=0)))

    def grow(self, members: list[int], *, per_cost: bool) -> list[int]:
        """Add learners while that helps; the first in any case."""
        while True:
            losses = self._losses_with_each(members)
            gains = self.loss(members) - losses
            scores = gains / np.maximum(self.costs, 1e-12) if per_cost else gains
            scores[~np.isfinite(losses)] = -np.inf
            best = int(scores.argmax())
            if not np.isfinite(losses[best]) or (members and gains[best] <= _ROUNDING):
                return members
            members = [*members, best]

    def improve(self, members: list[int]) -> list[int]:
        """Add, remove or exchange one learner at a time while that helps."""
        while True:
            steps = [members, *self._neighbours(members)]
            best = min(steps, key=self.loss)
            if self.loss(best) >= self.loss(members) - _ROUNDING:
                return members
            members = best

    def _neighbours(self, members: list[int]) -> list[list[int]]:
        """Return the best set after an addition, after each removal and exchange."""
        smaller = [[m for m in members if m != removed] for removed in members]
        larger = [self._best_addition(rest) for rest in [members, *smaller]]
        return [step for step in smaller + larger if step]

    def _best_addition(self, members: list[int]) -> list[int]:
        losses = self._losses_with_each(members)
        best = int(losses.argmin())
        return [*members, best] if np.isfinite(losses[best]) else members

    def _losses_with_each(self, members: list[int]) -> np.ndarray:
        """Return the loss with each learner added; infinity where it exceeds budget."""
        losses = np.full(len(self.costs), np.inf)
        remaining = self.budget - self.costs[members].sum()
        affordable = np.flatnonzero(self.costs <= remaining * (1 + _ROUNDING))
        affordable = np.setdiff1d(affordable, members)
        total = self.terms[members].sum(axis=0)
        means = (self.terms[affordable] + total) / (len(members) + 1)
        losses[affordable] = self._loss(means)
        return losses

    def _loss(self, mean: np.ndarray) -> np.ndarray:
        return self.candidates.average(self.candidates.targets.loss(mean))


def _check_costs(costs: Any, budget: float, n_learners: int) -> np.ndarray:
    costs = np.asarray(costs, float)
    if costs.shape != (n_learners,):
        raise ValueError(
            f"Expected costs of shape ({n_learners},), one for each learner. "
            f"Received: shape {costs.shape}."
        )
    valid = np.isfinite(costs) & (costs >= 0)
    if not valid.all():
        raise ValueError(
            f"Expected finite, non-negative costs. Received: {costs[~valid][0]}."
        )
    if not costs.min() <= budget:
        raise ValueError(
            f"Expected a budget of at least {costs.min():g}, the cost of the cheapest "
            f"learner. Received: {budget=}."
        )
    return costs
