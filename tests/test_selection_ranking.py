import numpy as np
import pytest

from keras_micronets.selection import random_k, top_k
from keras_micronets.selection.ranking import rank

# Accuracies 1/2, 1, 1, 1/2 on y = [0, 0]; of the two best, learner 2 is surer.
P = np.array(
    [
        [[0.9, 0.1], [0.4, 0.6]],
        [[0.6, 0.4], [0.6, 0.4]],
        [[0.9, 0.1], [0.9, 0.1]],
        [[0.9, 0.1], [0.4, 0.6]],
    ]
)
Y = [0, 0]


def test_rank_by_accuracy_then_likelihood_then_index():
    np.testing.assert_array_equal(rank(P, Y), [2, 1, 0, 3])


def test_top_k():
    chosen = top_k(P, Y, 3)
    np.testing.assert_array_equal(chosen.indices, [0, 1, 2])
    np.testing.assert_array_equal(chosen.labels, np.zeros(4))
    np.testing.assert_allclose(chosen.weights, 1 / 3)
    assert (chosen.method, chosen.representative) == ("top_k", None)
    np.testing.assert_array_equal(top_k(P, Y, 1).indices, [2])


def test_random_k_draws_different_learners_and_repeats_with_a_seed():
    draws = [random_k(P, Y, 2, random_state=seed).indices for seed in range(40)]
    assert all(a < b for a, b in draws)
    assert len({tuple(draw) for draw in draws}) == 6
    np.testing.assert_array_equal(random_k(P, Y, 2, random_state=3).indices, draws[3])


@pytest.mark.parametrize("choose", [top_k, random_k])
def test_bad_input(choose):
    with pytest.raises(ValueError, match="n_members=5"):
        choose(P, Y, 5)
    with pytest.raises(ValueError, match="labels of shape"):
        choose(P, [0], 2)
    with pytest.raises(ValueError, match="empty pool"):
        choose(P[:0], Y, 2)
