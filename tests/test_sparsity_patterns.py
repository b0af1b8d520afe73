import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_micronets.sparsity import (
    Block,
    Channels,
    NofM,
    Unstructured,
    complement,
    random_halves,
)

# Kernels in the canonical layout, with sides that are no multiples of anything.
shapes = hnp.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=9)
tied = hnp.arrays("float32", shapes, elements=st.sampled_from([-1.0, 0.0, 0.5, 2.0]))
free = hnp.arrays("float32", shapes, elements=st.floats(-9, 9, width=32))
scores_of = tied | free
n_of_m = st.tuples(st.integers(1, 6), st.integers(1, 4)).map(
    lambda pair: NofM(pair[0], pair[0] + pair[1])
)
blocks = st.integers(1, 5).map(Block)
exact = st.just(Unstructured()) | n_of_m
units = st.just(Channels()) | blocks
patterns = exact | units


def groups(array, size):
    """Split along the inputs: lists of `(..., up to size, outputs)`."""
    return np.split(array, range(size, array.shape[-2], size), axis=-2)


def unit_size(pattern, shape):
    if isinstance(pattern, Channels):
        return int(np.prod(shape[:-1]))
    return getattr(pattern, "size", 1)


def assert_whole_units(pattern, mask):
    if isinstance(pattern, Channels):
        together = [mask.reshape(-1, mask.shape[-1])]
    else:
        together = groups(mask, pattern.size)
    for group in together:
        some, every = group.any(axis=-2), group.all(axis=-2)
        np.testing.assert_array_equal(some, every)


@settings(deadline=None)
@given(exact, scores_of, st.data())
def test_removes_exactly_the_requested_number(pattern, scores, data):
    count = data.draw(st.integers(0, scores.size))
    mask = pattern.mask(scores, count)
    assert (mask.dtype, mask.shape) == (bool, scores.shape)
    assert np.count_nonzero(~mask) == count


@settings(deadline=None)
@given(units, scores_of, st.data())
def test_removes_the_requested_number_within_a_unit(pattern, scores, data):
    count = data.draw(st.integers(0, scores.size))
    mask = pattern.mask(scores, count)
    assert_whole_units(pattern, mask)
    missed = abs(np.count_nonzero(~mask) - count)
    size = unit_size(pattern, scores.shape)
    assert missed <= size / 2 or (missed < size and count < scores.size)
    assert mask.any() == (count < scores.size)


@settings(deadline=None)
@given(patterns, scores_of, st.data())
def test_masks_are_nested_and_restore_no_weight(pattern, scores, data):
    less = data.draw(st.integers(0, scores.size))
    more = data.draw(st.integers(less, scores.size))
    first = pattern.mask(scores, less)
    assert not (pattern.mask(scores, more) & ~first).any()
    if np.count_nonzero(~first) <= more:
        drawn = data.draw(hnp.arrays("float32", scores.shape, elements=st.floats(0, 9)))
        later = pattern.mask(np.where(first, drawn, np.float32(-np.inf)), more)
        assert not (later & ~first).any()
        size = unit_size(pattern, scores.shape)
        assert abs(np.count_nonzero(~later) - more) < max(size, 1)


@settings(deadline=None)
@given(n_of_m, scores_of, st.data())
def test_n_of_m_holds_from_its_sparsity(pattern, scores, data):
    lengths = [group.shape[-2] for group in groups(scores, pattern.m)]
    columns = scores.size // scores.shape[-2]
    outside = columns * sum(max(0, length - pattern.n) for length in lengths)
    assert outside <= round(scores.size * (1 - pattern.n / pattern.m))
    count = data.draw(st.integers(outside, scores.size))
    for group in groups(pattern.mask(scores, count), pattern.m):
        assert (np.count_nonzero(group, axis=-2) <= pattern.n).all()
    for group in groups(pattern.mask(scores, outside), pattern.m):
        kept = min(pattern.n, group.shape[-2])
        assert (np.count_nonzero(group, axis=-2) == kept).all()


@settings(deadline=None)
@given(n_of_m, scores_of, st.data())
def test_n_of_m_follows_a_schedule_while_scores_change(pattern, scores, data):
    counts = data.draw(st.lists(st.integers(0, scores.size), min_size=2, max_size=4))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    mask = np.ones(scores.shape, bool)
    for count in sorted(counts):
        drawn = rng.random(scores.shape, np.float32)
        mask = pattern.mask(np.where(mask, drawn, np.float32(-np.inf)), count)
        assert np.count_nonzero(~mask) == count
    if count >= scores.size * (1 - pattern.n / pattern.m):
        for group in groups(mask, pattern.m):
            assert (np.count_nonzero(group, axis=-2) <= pattern.n).all()


@settings(deadline=None)
@given(scores_of, st.data())
def test_removes_the_blocks_of_the_lowest_mean(scores, data):
    pattern = data.draw(blocks)
    mask = pattern.mask(scores, data.draw(st.integers(1, scores.size)))
    pairs = zip(groups(scores, pattern.size), groups(mask, pattern.size), strict=True)
    kept, gone = [], []
    for part, of_mask in pairs:
        means = part.sum(axis=-2, dtype=np.float32) / np.float32(part.shape[-2])
        kept.extend(means[of_mask.all(axis=-2)])
        gone.extend(means[~of_mask.any(axis=-2)])
    if kept and gone:
        assert max(gone) <= min(kept) + 1e-5


@settings(deadline=None)
@given(units, free, st.data())
def test_zeros_from_earlier_pruning_stay_and_count(pattern, scores, data):
    dead = data.draw(hnp.arrays(bool, scores.shape))
    scores = np.where(dead, np.float32(-np.inf), scores)
    count = data.draw(st.integers(np.count_nonzero(dead), scores.size))
    mask = pattern.mask(scores, count)
    assert not (mask & dead).any()
    missed = abs(np.count_nonzero(~mask) - count)
    assert missed <= unit_size(pattern, scores.shape)


@settings(deadline=None)
@given(patterns, free)
def test_pooled_scores_have_the_shape_of_the_kernel(pattern, scores):
    pooled = pattern.pooled(scores)
    assert pooled.shape == scores.shape
    assert pooled.dtype == np.float32
    np.testing.assert_allclose(pooled.mean(), scores.mean(), atol=1e-4)
    scores = np.where(scores < 0, np.float32(-np.inf), scores)
    np.testing.assert_array_equal(np.isneginf(pattern.pooled(scores)), scores < 0)


def test_two_of_four_of_a_depthwise_kernel_is_unstructured():
    scores = np.arange(18, dtype="float32").reshape(3, 3, 1, 2)
    expected = Unstructured().mask(scores, 9)
    np.testing.assert_array_equal(NofM(2, 4).mask(scores, 9), expected)


def test_a_large_m():
    scores = np.random.default_rng(0).random((300, 2), np.float32)
    mask = NofM(1, 300).mask(scores, 598)
    np.testing.assert_array_equal(np.argmax(mask, axis=0), np.argmax(scores, axis=0))
    assert np.count_nonzero(mask) == 2


@settings(deadline=None)
@given(st.none() | patterns, shapes, st.integers(0, 99))
def test_halves_are_complements(pattern, shape, seed):
    mask, other = random_halves(shape, np.random.default_rng(seed), pattern=pattern)
    assert not (mask & other).any()
    assert (mask | other).all()
    size = 1 if pattern is None else unit_size(pattern, shape)
    assert abs(np.count_nonzero(mask) - np.count_nonzero(other)) <= 2 * size
    np.testing.assert_array_equal(other, complement(mask))


def test_the_complement_of_two_of_four_is_two_of_four():
    for mask in random_halves((8, 3), np.random.default_rng(0), pattern=NofM(2, 4)):
        assert (np.count_nonzero(mask.reshape(2, 4, 3), axis=1) == 2).all()


def test_halves_depend_on_the_generator_only():
    def draw(seed):
        return random_halves((9, 9), np.random.default_rng(seed))[0]

    np.testing.assert_array_equal(draw(1), draw(1))
    assert (draw(1) != draw(2)).any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NofM(4, 2), "n=4, m=2"),
        (lambda: NofM(0, 4), "n=0, m=4"),
        (lambda: Block(0), "size=0"),
    ],
)
def test_rejects_impossible_patterns(make, message):
    with pytest.raises(ValueError, match=message):
        make()
