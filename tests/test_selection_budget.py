from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selection_cases import check_permuted, check_selection, pool, pools

from keras_micronets.selection import within_budget


def loss(p, y, members):
    total = 0.0
    for sample, label in enumerate(y):
        right = np.mean([max(p[m, sample, label], 1e-7) for m in members])
        total -= np.log(right)
    return total / len(y)


def affordable(costs, budget):
    everyone = range(len(costs))
    for size in range(1, len(costs) + 1):
        for members in combinations(everyone, size):
            if sum(costs[m] for m in members) <= budget:
                yield members


@settings(deadline=None, max_examples=40)
@given(pools(), st.integers(0, 1000))
def test_no_single_step_improves_it(case, seed):
    p, y = case
    costs = np.random.default_rng(seed).integers(1, 10, len(p))
    budget = costs.min() + seed % 20
    kept = within_budget(p, y, budget, costs=costs)
    check_selection(kept, len(p), len(p))
    members = set(kept.indices)
    assert costs[kept.indices].sum() <= budget
    result = loss(p, y, kept.indices)
    for other in affordable(costs, budget):
        fewer, more = members - set(other), set(other) - members
        if len(fewer) <= 1 and len(more) <= 1:
            assert result <= loss(p, y, other) + 1e-9


def test_it_is_near_the_best_of_all_subsets():
    """Over 60 pools of 10 learners: the optimum in most, never 2 % from it."""
    excess = []
    for seed in range(60):
        p, y = pool(seed, n_samples=20, coarse=False)
        costs = np.random.default_rng(seed).integers(1, 10, len(p))
        kept = within_budget(p, y, 12, costs=costs).indices
        best = min(loss(p, y, members) for members in affordable(costs, 12))
        excess.append(loss(p, y, kept) / best - 1)
    assert np.mean(np.array(excess) < 1e-9) > 0.8
    assert max(excess) < 0.02


def test_two_cheap_learners_rather_than_an_expensive_one():
    """Two that are right on half of the samples each, and one that is fair on all."""
    half = np.array([[0.99, 0.01]] * 2 + [[0.55, 0.45]] * 2)
    p = np.array([[[0.75, 0.25]] * 4, half, half[::-1]])
    y = [0] * 4
    assert within_budget(p, y, 2, costs=[2, 1, 1]).indices.tolist() == [1, 2]
    assert within_budget(p, y, 1.9, costs=[1.5, 1, 1]).indices.tolist() == [0]


def test_the_order_of_the_pool_does_not_matter():
    for seed in range(10):
        p, y = pool(seed)
        of = {learner.tobytes(): 1 + i % 3 for i, learner in enumerate(p)}
        check_permuted(
            lambda p, y, of=of: within_budget(
                p, y, 5, costs=[of[learner.tobytes()] for learner in p]
            ),
            p,
            y,
            seed,
        )


def test_bad_input():
    p, y = pool(0)
    n = len(p)
    with pytest.raises(ValueError, match=r"at least 3, the cost.*budget=2"):
        within_budget(p, y, 2, costs=[3] * n)
    with pytest.raises(ValueError, match=rf"shape \({n},\)"):
        within_budget(p, y, 2, costs=[1])
    for wrong in (-1, np.nan, np.inf):
        with pytest.raises(ValueError, match="finite, non-negative costs"):
            within_budget(p, y, 2, costs=[wrong] + [1] * (n - 1))
    assert within_budget(p, y, 1, costs=np.zeros(n)).indices.size >= 1
