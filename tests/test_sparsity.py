import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_micronets.sparsity import (
    as_allocation,
    erdos_renyi_kernel,
    global_ranking,
    keep_largest,
    uniform,
)

shapes = hnp.array_shapes(min_dims=1, max_dims=4, max_side=5)
# Few different values, so that ties are the rule.
tied = hnp.arrays("float32", shapes, elements=st.sampled_from([-1.0, 0.0, 0.5, 2.0]))
free = hnp.arrays("float32", shapes, elements=st.floats(-9, 9, width=32))
sparsities = st.floats(0.0, 1.0, exclude_max=True)


@settings(deadline=None)
@given(tied | free, st.data())
def test_removes_exactly_the_requested_number(scores, data):
    count = data.draw(st.integers(0, scores.size))
    mask = keep_largest(scores, count)
    assert mask.dtype == bool
    assert mask.shape == scores.shape
    assert np.count_nonzero(~mask) == count


@settings(deadline=None)
@given(tied | free, st.data())
def test_removed_scores_are_not_larger_than_kept_ones(scores, data):
    mask = keep_largest(scores, data.draw(st.integers(1, scores.size)))
    if mask.any():
        assert scores[~mask].max() <= scores[mask].min()


@settings(deadline=None)
@given(tied | free, st.data())
def test_masks_of_increasing_counts_are_nested(scores, data):
    count = data.draw(st.integers(0, scores.size))
    more = data.draw(st.integers(count, scores.size))
    assert not (keep_largest(scores, more) & ~keep_largest(scores, count)).any()


def test_removes_the_requested_number_of_nan_scores():
    scores = np.array([np.nan, 1.0, np.nan, 2.0, np.nan], "float32")
    np.testing.assert_array_equal(keep_largest(scores, 1), [1, 0, 1, 1, 1])
    assert np.count_nonzero(keep_largest(scores, 4)) == 1


@settings(deadline=None)
@given(st.lists(tied, min_size=1, max_size=5), sparsities)
def test_each_layer_loses_its_share(scores, sparsity):
    for score, count in zip(scores, uniform(scores, sparsity), strict=True):
        assert isinstance(count, int)
        assert abs(count - sparsity * score.size) < 1
        assert 0 <= count < score.size


def test_each_layer_loses_the_nearest_count():
    scores = [np.zeros(10), np.zeros((3, 5)), np.zeros(1)]
    assert uniform(scores, 0.75) == [8, 11, 0]


def literal_allocation(scores, sparsity):
    """Sort all entries, count the smallest by array."""
    entries = sorted(
        (float(value), array)
        for array, score in enumerate(scores)
        for value in score.ravel()
    )
    removed = [0] * len(scores)
    for _, array in entries[: round(sparsity * len(entries))]:
        removed[array] += 1
    return [min(n, score.size - 1) for n, score in zip(removed, scores, strict=True)]


@settings(deadline=None)
@given(st.lists(shapes, min_size=1, max_size=5), sparsities, st.integers(0, 2**32 - 1))
def test_global_ranking_removes_the_lowest_of_all(shapes, sparsity, seed):
    rng = np.random.default_rng(seed)
    scores = [rng.normal(size=shape).astype("float32") for shape in shapes]
    counts = global_ranking(scores, sparsity)
    assert counts == literal_allocation(scores, sparsity)


@settings(deadline=None)
@given(st.lists(tied, min_size=1, max_size=5), sparsities)
def test_global_ranking_meets_the_total_with_ties(scores, sparsity):
    counts = global_ranking(scores, sparsity)
    target = round(sparsity * sum(score.size for score in scores))
    assert all(0 <= n < s.size for n, s in zip(counts, scores, strict=True))
    capped = sum(n == s.size - 1 for n, s in zip(counts, scores, strict=True))
    assert target - capped <= sum(counts) <= target


def test_global_ranking_keeps_the_best_weight_of_each_layer():
    scores = [np.array([0.1, 0.2, 0.3]), np.full(7, 5.0)]
    assert global_ranking(scores, 0.3) == [2, 0]
    assert global_ranking(scores, 0.5) == [2, 2]


@pytest.mark.parametrize("allocate", [global_ranking, uniform, erdos_renyi_kernel])
def test_removes_nothing_at_sparsity_zero(allocate):
    assert allocate([np.ones((2, 2)), np.ones(3)], 0.0) == [0, 0]


def literal_densities(shapes, sparsity):
    """Make one array dense at a time, the one that would be densest."""
    sizes = [math.prod(shape) for shape in shapes]
    ratios = [sum(shape) / size for shape, size in zip(shapes, sizes, strict=True)]
    dense = set()
    while True:
        rest = [i for i in range(len(shapes)) if i not in dense]
        kept = (1 - sparsity) * sum(sizes) - sum(sizes[i] for i in dense)
        scale = kept / sum(ratios[i] * sizes[i] for i in rest)
        densest = max(rest, key=lambda i: ratios[i])
        if scale * ratios[densest] <= 1:
            return [
                1.0 if i in dense else scale * ratios[i] for i in range(len(shapes))
            ]
        dense.add(densest)


@settings(deadline=None)
@given(st.lists(shapes, min_size=1, max_size=6), st.floats(0.05, 0.95))
def test_erdos_renyi_kernel_follows_the_dimensions(shapes, sparsity):
    scores = [np.zeros(shape, "float32") for shape in shapes]
    counts = erdos_renyi_kernel(scores, sparsity)
    densities = literal_densities(shapes, sparsity)
    for count, score, density in zip(counts, scores, densities, strict=True):
        assert 0 <= count < score.size
        assert abs(count - min((1 - density) * score.size, score.size - 1)) <= 0.5001
    capped = sum(n == s.size - 1 for n, s in zip(counts, scores, strict=True))
    target = sparsity * sum(score.size for score in scores)
    assert abs(sum(counts) - target) <= len(scores) / 2 + capped + 1e-3


@given(st.lists(shapes, min_size=1, max_size=6), st.floats(0, 0.9), st.floats(0, 0.09))
def test_erdos_renyi_kernel_removes_more_at_more_sparsity(shapes, sparsity, more):
    scores = [np.zeros(shape, "float32") for shape in shapes]
    less = erdos_renyi_kernel(scores, sparsity)
    for low, high in zip(
        less, erdos_renyi_kernel(scores, sparsity + more), strict=True
    ):
        assert low <= high


def test_allocations_are_names_or_functions():
    assert as_allocation("erk") is erdos_renyi_kernel
    assert as_allocation(literal_allocation) is literal_allocation
    with pytest.raises(ValueError, match="allocation='all'"):
        as_allocation("all")
