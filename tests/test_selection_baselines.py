import numpy as np
import pytest
from hypothesis import given, settings
from selection_cases import check_permuted, check_selection, pool, pools

from keras_micronets.selection import random_k, top_k

# Accuracies 1/2, 1, 1, 1/2 on y = [0, 0]; of the two best, learner 2 is more confident.
P = np.array(
    [
        [[0.9, 0.1], [0.4, 0.6]],
        [[0.6, 0.4], [0.6, 0.4]],
        [[0.9, 0.1], [0.9, 0.1]],
        [[0.9, 0.1], [0.4, 0.6]],
    ]
)
Y = [0, 0]


def test_top_k():
    chosen = top_k(P, Y, 3)
    np.testing.assert_array_equal(chosen.indices, [0, 1, 2])
    np.testing.assert_array_equal(chosen.labels, np.zeros(4))
    np.testing.assert_allclose(chosen.weights, 1 / 3)
    assert (chosen.method, chosen.representative) == ("top_k by accuracy", None)
    np.testing.assert_array_equal(top_k(P, Y, 1).indices, [2])


def test_the_lowest_loss_need_not_be_the_most_accurate():
    p = np.array([[[0.51, 0.49], [0.51, 0.49]], [[0.99, 0.01], [0.49, 0.51]]])
    assert top_k(p, Y, 1).indices == [0]
    assert top_k(p, Y, 1, by="loss").indices == [1]


@settings(deadline=None)
@given(pools())
def test_top_k_against_a_slow_version(case):
    p, y = case
    right = [
        np.mean([row.argmax() == t for row, t in zip(q, y, strict=True)]) for q in p
    ]
    loss = [
        -np.mean([np.log(max(row[t], 1e-7)) for row, t in zip(q, y, strict=True)])
        for q in p
    ]
    k = len(p) // 2 + 1
    kept = top_k(p, y, k).indices
    assert sorted(np.round(right, 9)[kept]) == sorted(np.round(right, 9))[-k:]
    kept = top_k(p, y, k, by="loss").indices
    np.testing.assert_allclose(sorted(np.array(loss)[kept]), sorted(loss)[:k])


def test_random_k_draws_different_learners_and_repeats_with_a_seed():
    draws = [random_k(P, Y, 2, random_state=seed).indices for seed in range(40)]
    assert all(a < b for a, b in draws)
    assert len({tuple(draw) for draw in draws}) == 6
    np.testing.assert_array_equal(random_k(P, Y, 2, random_state=3).indices, draws[3])


@pytest.mark.parametrize("choose", [top_k, random_k])
def test_the_order_of_the_pool_does_not_matter(choose):
    for seed in range(20):
        p, y = pool(seed)
        check_permuted(lambda p, y: choose(p, y, 4, random_state=3), p, y, seed)
        check_selection(choose(p, y, 4, random_state=3), len(p), 4)


@pytest.mark.parametrize("choose", [top_k, random_k])
def test_bad_input(choose):
    with pytest.raises(ValueError, match="n_members=5"):
        choose(P, Y, 5)
    with pytest.raises(ValueError, match="labels of shape"):
        choose(P, [0], 2)
    with pytest.raises(ValueError, match="empty pool"):
        choose(P[:0], Y, 2)


def test_top_k_by_something_else():
    with pytest.raises(ValueError, match=r"by to be one of \['accuracy', 'loss'\]"):
        top_k(P, Y, 2, by="age")
