import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_micronets.sparsity import drop_and_grow

shapes = hnp.array_shapes(min_dims=1, max_dims=4, max_side=5)
numbers = st.floats(-9, 9, width=32) | st.sampled_from([0.0, 1.0, -1.0])


@st.composite
def cases(draw, scores=numbers):
    shape = draw(shapes)
    mask = draw(hnp.arrays(bool, shape))
    weights = draw(hnp.arrays("float32", shape, elements=numbers))
    growth = draw(hnp.arrays("float32", shape, elements=scores))
    return mask, weights, growth, draw(st.integers(0, mask.size + 2))


def moves(case):
    mask, weights, growth, n_moved = case
    new = drop_and_grow(mask, weights, growth_scores=growth, n_moved=n_moved)
    return new, mask & ~new, new & ~mask


@settings(deadline=None)
@given(cases(numbers | st.sampled_from([np.nan, np.inf, -np.inf])))
def test_the_same_number_is_dropped_and_grown(case):
    mask, _, _, n_moved = case
    before = mask.copy()
    new, dropped, grown = moves(case)
    assert new.dtype == bool
    assert new.shape == mask.shape
    assert dropped.sum() == grown.sum() == min(n_moved, mask.sum(), (~mask).sum())
    assert new.sum() == mask.sum()
    np.testing.assert_array_equal(mask, before)


@settings(deadline=None)
@given(cases())
def test_the_smallest_are_dropped_and_the_highest_grow(case):
    mask, weights, growth, _ = case
    new, dropped, grown = moves(case)
    stays, still_off = mask & new, ~mask & ~new
    if dropped.any() and stays.any():
        assert np.abs(weights[dropped]).max() <= np.abs(weights[stays]).min()
    if grown.any() and still_off.any():
        assert growth[grown].min() >= growth[still_off].max()


@settings(deadline=None)
@given(cases())
def test_scores_of_kept_weights_do_not_affect_growth(case):
    mask, weights, growth, n_moved = case
    other = np.where(mask, np.float32(99), growth)
    np.testing.assert_array_equal(
        moves(case)[0], moves((mask, weights, other, n_moved))[0]
    )


def test_nan_grows_last():
    mask = np.array([True, False, False])
    growth = np.array([0.0, np.nan, -5.0])
    new = drop_and_grow(mask, np.ones(3), growth_scores=growth, n_moved=1)
    assert new.tolist() == [False, False, True]
