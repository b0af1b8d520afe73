import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_micronets.sparsity import (
    allocate_over_model,
    allocate_per_layer,
    keep_largest,
    magnitude,
)

shapes = hnp.array_shapes(min_dims=1, max_dims=4, max_side=5)
# Few different values, so that ties are the rule.
tied = hnp.arrays("float32", shapes, elements=st.sampled_from([-1.0, 0.0, 0.5, 2.0]))
free = hnp.arrays("float32", shapes, elements=st.floats(-9, 9, width=32))
sparsities = st.floats(0.0, 1.0, exclude_max=True)


@settings(deadline=None)
@given(tied | free, st.data())
def test_exactly_so_many_entries_are_removed(scores, data):
    count = data.draw(st.integers(0, scores.size))
    mask = keep_largest(scores, count)
    assert mask.dtype == bool
    assert mask.shape == scores.shape
    assert np.count_nonzero(~mask) == count


@settings(deadline=None)
@given(tied | free, st.data())
def test_what_is_removed_is_not_larger_than_what_is_kept(scores, data):
    mask = keep_largest(scores, data.draw(st.integers(1, scores.size)))
    if mask.any():
        assert scores[~mask].max() <= scores[mask].min()


@settings(deadline=None)
@given(free, st.data())
def test_removed_weights_score_lowest(weights, data):
    count = data.draw(st.integers(0, weights.size))
    mask = keep_largest(np.abs(weights), count)
    scores = magnitude(weights, mask)
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores[mask], np.abs(weights[mask]))
    assert (scores[~mask] == -1).all()
    more = data.draw(st.integers(count, weights.size))
    again = keep_largest(scores, more)
    assert not (again & ~mask).any()  # a sparser mask revives nothing


@settings(deadline=None)
@given(st.lists(tied, min_size=1, max_size=5), sparsities)
def test_each_layer_loses_its_share(scores, sparsity):
    for score, count in zip(scores, allocate_per_layer(scores, sparsity), strict=True):
        assert isinstance(count, int)
        assert abs(count - sparsity * score.size) < 1
        assert 0 <= count < score.size


def test_each_layer_loses_the_nearest_count():
    scores = [np.zeros(10), np.zeros((3, 5)), np.zeros(1)]
    assert allocate_per_layer(scores, 0.75) == [8, 11, 0]


def literal_allocation(scores, sparsity):
    """Sort all entries, walk up from the smallest, and count by array."""
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
def test_over_the_model_the_lowest_of_all_go(shapes, sparsity, seed):
    rng = np.random.default_rng(seed)
    scores = [rng.normal(size=shape).astype("float32") for shape in shapes]
    counts = allocate_over_model(scores, sparsity)
    assert counts == literal_allocation(scores, sparsity)


@settings(deadline=None)
@given(st.lists(tied, min_size=1, max_size=5), sparsities)
def test_over_the_model_the_total_is_right_with_ties(scores, sparsity):
    counts = allocate_over_model(scores, sparsity)
    target = round(sparsity * sum(score.size for score in scores))
    assert all(0 <= n < s.size for n, s in zip(counts, scores, strict=True))
    capped = sum(n == s.size - 1 for n, s in zip(counts, scores, strict=True))
    assert target - capped <= sum(counts) <= target


def test_over_the_model_a_weak_layer_keeps_its_best_weight():
    scores = [np.array([0.1, 0.2, 0.3]), np.full(7, 5.0)]
    assert allocate_over_model(scores, 0.3) == [2, 0]
    assert allocate_over_model(scores, 0.5) == [2, 2]


@pytest.mark.parametrize("allocate", [allocate_over_model, allocate_per_layer])
def test_nothing_goes_at_sparsity_zero(allocate):
    assert allocate([np.ones((2, 2)), np.ones(3)], 0.0) == [0, 0]
