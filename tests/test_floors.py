"""No output, no input and no layer loses all its weights."""

import itertools

import keras
import numpy as np
import pytest

from keras_micronets import layers
from keras_micronets.callbacks import drop_and_regrow, prune, sparsify_at_random
from keras_micronets.layers import Scope, kernels
from keras_micronets.sparsity import (
    ALLOCATIONS,
    Block,
    NofM,
    Unstructured,
    random_halves,
)
from keras_micronets.sparsity.floors import allocate_above_floor, mask_above_floor
from keras_micronets.sparsity.masks import drop_and_grow_above_floor

ALL = Scope(first=True, last=True, small=True)
SHAPES = [(1, 1), (4, 3), (16, 1), (2, 2, 4, 6), (3, 3, 1, 8), (5, 8, 8)]
PATTERNS = [Unstructured(), NofM(2, 4), Block(2), Block(4)]


def outputs_of(mask):
    return mask.reshape(-1, mask.shape[-1]).any(0)


def inputs_of(mask, groups=1):
    """Return which inputs are read, for each group of outputs."""
    parts = np.split(mask, groups, axis=-1)
    return np.array(
        [np.moveaxis(p, -2, 0).reshape(p.shape[-2], -1).any(1) for p in parts]
    )


def scores_of(shape, seed=0):
    return np.random.default_rng(seed).random(shape, np.float32)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_each_output_keeps_a_weight_at_any_sparsity(pattern, shape):
    scores = scores_of(shape)
    for n_removed in range(scores.size + 1):
        mask = mask_above_floor(pattern, scores, n_removed)
        assert outputs_of(mask).all()
        if pattern in PATTERNS[:2]:
            assert (~mask).sum() == min(n_removed, scores.size - shape[-1])


@pytest.mark.parametrize("groups", [1, 2])
def test_inputs_keep_a_weight_where_enough_are_left(groups):
    scores = scores_of((2, 2, 4, 6))
    scores[..., 1, :] *= 1e-3  # the weights of one input are the smallest of all
    for n_removed in range(scores.size - 6 - 4 * groups + 1):
        mask = mask_above_floor(Unstructured(), scores, n_removed, groups=groups)
        assert inputs_of(mask, groups).all()
        assert (~mask).sum() == n_removed
    mask = mask_above_floor(Unstructured(), scores, scores.size, groups=groups)
    assert mask.sum() == 6  # one for each output, not for each input


def test_the_best_weight_of_an_output_stays():
    scores = np.array([[9.0, 0.2], [8.0, 0.1], [7.0, 0.3]])
    mask = mask_above_floor(Unstructured(), scores, 3)
    np.testing.assert_array_equal(mask, [[1, 0], [1, 0], [0, 1]])
    # Without a floor the three largest, all in the first column, would stay.


def test_without_need_nothing_changes():
    scores = scores_of((32, 32))
    for pattern, n in itertools.product(PATTERNS, (0, 256, 512)):
        mask = mask_above_floor(pattern, scores, n)
        np.testing.assert_array_equal(mask, pattern.mask(scores, n))


def test_masks_are_nested_and_removed_weights_stay_removed():
    for seed, pattern in itertools.product(range(20), PATTERNS):
        scores = scores_of((2, 4, 6), seed)
        for n_removed in range(0, 48, 5):
            mask = mask_above_floor(pattern, scores, n_removed)
            assert not (mask & np.isneginf(scores)).any()
            scores = np.where(mask, scores_of((2, 4, 6), seed + 100), -np.inf)


def test_moved_connections_keep_all_outputs_and_inputs():
    for seed in range(50):
        rng = np.random.default_rng(seed)
        weights = rng.normal(size=(8, 6))
        mask = mask_above_floor(Unstructured(), np.abs(weights), 30)
        assert inputs_of(mask).all()
        for n_moved in (1, 9, 18):
            after = drop_and_grow_above_floor(
                mask, weights, growth_scores=rng.random((8, 6)), n_moved=n_moved
            )
            assert after.sum() == mask.sum()
            assert outputs_of(after).all()
            assert inputs_of(after).all()


def test_random_halves_keep_all_outputs():
    for seed in range(50):
        rng = np.random.default_rng(seed)
        mask, other = random_halves((3, 3, 1, 32), rng)
        np.testing.assert_array_equal(mask, ~other)
        assert mask.sum() == 144
        assert outputs_of(mask).all()
        assert outputs_of(other).all()


def test_global_ranking_leaves_a_fifth_of_the_uniform_density():
    rng = np.random.default_rng(0)
    scores = [
        rng.random((10, 4, 32)) * 1e-3,
        rng.random((64, 64)),
        rng.random((64, 10)),
    ]
    total = sum(score.size for score in scores)
    plain = ALLOCATIONS["global"](scores, 0.8)
    assert plain[0] == 1279  # one weight is left
    counts = allocate_above_floor(ALLOCATIONS["global"], scores, 0.8)
    assert counts[0] == 1229  # 51 of 1,280 are left: a fifth of 20 %
    assert sum(counts) == pytest.approx(0.8 * total, abs=0.001 * total + 1)


def small_mobilenet():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((16, 16, 1)),
            keras.layers.Conv2D(16, (5, 3), name="first"),
            keras.layers.DepthwiseConv2D(3, name="depthwise"),
            keras.layers.Conv2D(32, 1, name="pointwise"),
            keras.layers.Conv2D(32, 3, groups=4, name="grouped"),
            keras.layers.Conv2DTranspose(8, 3, name="transposed"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(1, name="last"),
        ]
    )


@pytest.mark.parametrize(
    "allocation", [*ALLOCATIONS, lambda s, share: [x.size for x in s]]
)
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_no_layer_of_a_model_collapses(allocation, pattern):
    model = small_mobilenet()
    layers.prepare(model)
    for kernel in kernels(model)[:2]:  # what global ranking would empty
        kernel.variable.assign(kernel.weights * 1e-4)
    for sparsity in (0.5, 0.8, 0.95):
        prune(model, sparsity, pattern=pattern, allocation=allocation, scope=ALL)
        for kernel in kernels(model):
            assert outputs_of(kernel.layout.canonical(kernel.mask)).all(), kernel.path
    if pattern == Unstructured() and allocation in ALLOCATIONS:
        drop_and_regrow(model, 0.9, scope=ALL)
        for kernel in kernels(model):
            assert outputs_of(kernel.layout.canonical(kernel.mask)).all(), kernel.path


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_random_masks_do_not_collapse(allocation):
    model = small_mobilenet()
    layers.prepare(model)
    sparsify_at_random(model, 0.9, allocation=allocation, scope=ALL)
    for kernel in kernels(model):
        assert outputs_of(kernel.layout.canonical(kernel.mask)).all(), kernel.path
