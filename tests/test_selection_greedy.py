from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selection_cases import pool, pools

from keras_micronets.selection import backward_elimination, greedy, reduced_error
from keras_micronets.selection.candidates import Candidates
from keras_micronets.selection.ordering.by_loss import running_mean
from keras_micronets.selection.ordering.method import lowest


def nll_of_mean(members, y):
    """Loss of learners given as lists of rows, straight from the definition."""
    loss = 0
    for s, t in enumerate(y):
        loss -= log(sum(max(q[s][t], 1e-7) for q in members) / len(members))
    return loss / len(y)


def error_of_mean(members, y):
    wrong = 0
    for s, t in enumerate(y):
        sums = [sum(q[s][k] for q in members) for k in range(len(members[0][s]))]
        wrong += sums.index(max(sums)) != t
    return wrong / len(y)


LOSSES = {"nll": nll_of_mean, "error": error_of_mean}


def first_lowest(values):
    return next(i for i, value in enumerate(values) if value <= min(values) + 1e-12)


def slow_greedy(q, y, n_members, n_rounds, loss):
    added, losses = [], []
    for _ in range(n_rounds):
        inside = sorted(set(added))
        outside = [i for i in range(len(q)) if i not in inside]
        order = inside if len(inside) == n_members else inside + outside
        result = [LOSSES[loss]([q[i] for i in [*added, j]], y) for j in order]
        best = first_lowest(result)
        added.append(order[best])
        losses.append(result[best])
    return added[: first_lowest(losses) + 1]


def slow_reduced_error(q, y, n_members):
    chosen = []
    while len(chosen) < n_members:
        left = [i for i in range(len(q)) if i not in chosen]
        result = [error_of_mean([q[i] for i in [*chosen, j]], y) for j in left]
        chosen.append(left[first_lowest(result)])
    return chosen


def slow_elimination(q, y, n_members, start, loss):
    left = list(range(start))
    while len(left) > n_members:
        worst_first = left[::-1]
        result = [LOSSES[loss]([q[i] for i in left if i != j], y) for j in worst_first]
        left.remove(worst_first[first_lowest(result)])
    return left


def check_same(selection, indices, order):
    kept, counts = np.unique(indices, return_counts=True)
    by_index = np.argsort(order[kept])
    np.testing.assert_array_equal(selection.indices, order[kept][by_index])
    np.testing.assert_allclose(selection.weights, (counts / len(indices))[by_index])


@settings(deadline=None, max_examples=60)
@given(pools(), st.integers(1, 5), st.integers(1, 7), st.sampled_from(list(LOSSES)))
def test_greedy_against_a_slow_version(case, n_members, n_rounds, loss):
    p, y = case
    n_members = min(n_members, len(p))
    order = Candidates(p, y).order
    indices = slow_greedy(p[order].tolist(), y.tolist(), n_members, n_rounds, loss)
    check_same(greedy(p, y, n_members, n_rounds=n_rounds, loss=loss), indices, order)


@settings(deadline=None, max_examples=60)
@given(pools(), st.integers(1, 6))
def test_reduced_error_against_a_slow_version(case, n_members):
    p, y = case
    n_members = min(n_members, len(p))
    order = Candidates(p, y).order
    indices = slow_reduced_error(p[order].tolist(), y.tolist(), n_members)
    check_same(reduced_error(p, y, n_members), indices, order)


@settings(deadline=None, max_examples=60)
@given(pools(), st.integers(1, 4), st.integers(0, 3), st.sampled_from(list(LOSSES)))
def test_elimination_against_a_slow_version(case, n_members, fewer, loss):
    p, y = case
    n_members = min(n_members, len(p))
    start = max(len(p) - fewer, n_members)
    order = Candidates(p, y).order
    indices = slow_elimination(p[order].tolist(), y.tolist(), n_members, start, loss)
    selection = backward_elimination(p, y, n_members, start=start, loss=loss)
    check_same(selection, indices, order)


@pytest.mark.parametrize("loss", LOSSES)
def test_larger_pools_against_slow_versions(loss):
    for seed in range(8):
        p, y = pool(seed, n_learners=12, n_samples=15)
        order = Candidates(p, y).order
        q, labels = p[order].tolist(), y.tolist()
        selection = greedy(p, y, 6, n_rounds=12, loss=loss)
        check_same(selection, slow_greedy(q, labels, 6, 12, loss), order)
        selection = backward_elimination(p, y, 6, loss=loss)
        check_same(selection, slow_elimination(q, labels, 6, len(p), loss), order)


@pytest.mark.parametrize("loss", LOSSES)
@settings(deadline=None, max_examples=30)
@given(pools(), st.lists(st.integers(0, 9), min_size=2, max_size=9))
def test_losses_with_and_without_each(loss, case, added):
    p, y = case
    result = Candidates(p, y)
    q = p[result.order].tolist()
    added = [i % len(q) for i in added]
    mean, members = running_mean(result, loss), [q[i] for i in added]
    for index in added:
        mean.add(index)
    with_each = [LOSSES[loss]([*members, one], y) for one in q]
    np.testing.assert_allclose(mean.losses(np.arange(len(q))), with_each)
    indices = np.unique(added)
    without = [[q[j] for j in _without(added, i)] for i in indices]
    without_each = [LOSSES[loss](rest, y) for rest in without]
    np.testing.assert_allclose(mean.losses(indices, sign=-1), without_each)


def _without(added, index):
    rest = list(added)
    rest.remove(index)
    return rest


def test_equal_but_for_rounding():
    assert lowest(np.array([0.1 + 0.2, 0.3, 0.30001])).tolist() == [True, True, False]


def of_likelihoods(*learners):
    """Return learners of two classes from their probabilities of class 0, the label."""
    right = np.array(learners)
    return np.stack([right, 1 - right], axis=2), np.zeros(right.shape[1], int)


def test_greedy_by_hand():
    # Losses: A 0.511, B 0.857; A and A 0.511, A and B 0.514; A, A and B 0.487.
    p, y = of_likelihoods([0.9, 0.4], [0.2, 0.9])
    selection = greedy(p, y, 2, n_rounds=3)
    np.testing.assert_array_equal(selection.indices, [0, 1])
    np.testing.assert_allclose(selection.weights, [2 / 3, 1 / 3])
    assert selection.method == "greedy by nll"
    # The second round did no good, so without the third the first is all.
    np.testing.assert_array_equal(greedy(p, y, 2, n_rounds=2).indices, [0])


def test_greedy_prefers_members():
    # Once one of two equal learners is a member, the other gives the same loss.
    p, y = of_likelihoods([0.75, 0.5, 0.5], [0.5, 0.5, 0.75], [0.5, 0.5, 0.75])
    selection = greedy(p, y, 3, n_rounds=20)
    assert selection.indices[0] == 0
    assert selection.weights.tolist() == [0.5, 0.5]


def test_greedy_prefers_a_member_to_the_more_accurate():
    # A and C leave two samples wrong, and so do B and C as the third; C is in. (With B
    # and another A it would be one sample.)
    a, b, c = [5, 7, 6, 3, 3, 6, 2], [5, 2, 7, 3, 4, 1, 5], [1, 4, 3, 1, 6, 6, 7]
    p, y = of_likelihoods(*np.array([a, b, c]) / 8)
    assert Candidates(p, y).order.tolist() == [0, 1, 2]
    selection = greedy(p, y, 3, n_rounds=5, loss="error")
    assert selection.indices.tolist() == [0, 2]


def test_greedy_counts_different_learners_alone():
    p, y = of_likelihoods([0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9])
    for n_members in (1, 2, 3):
        assert len(greedy(p, y, n_members).indices) == n_members


def test_greedy_rounds_are_25_or_twice_the_members():
    # A knows 15 samples and B the other 14: 29 rounds weigh them just so.
    knows_a, hopeless = np.arange(29) < 15, np.full((13, 29), 0.001)
    p, y = of_likelihoods(
        np.where(knows_a, 0.999, 0.001), np.where(knows_a, 0.001, 0.999), *hopeless
    )
    np.testing.assert_allclose(greedy(p, y, 12).weights, [13 / 25, 12 / 25])
    np.testing.assert_allclose(greedy(p, y, 15).weights, [15 / 29, 14 / 29])
    by_hand = greedy(p, y, 2, n_rounds=29)
    np.testing.assert_allclose(by_hand.weights, [15 / 29, 14 / 29])


def test_greedy_is_never_worse_than_the_best_learner():
    random = np.random.default_rng(1)
    p, y = random.dirichlet(np.ones(4), (20, 50)), random.integers(0, 4, 50)
    for loss, measure in LOSSES.items():
        selection = greedy(p, y, 5, loss=loss)
        mean = np.average(p[selection.indices], axis=0, weights=selection.weights)
        assert measure([mean.tolist()], y) <= min(measure([q.tolist()], y) for q in p)


def test_reduced_error_by_hand():
    # Alone A is wrong on the last sample, C on the first two. A and B stay wrong on
    # the last; A and C are right everywhere.
    p, y = of_likelihoods([0.9, 0.9, 0.4], [0.9, 0.8, 0.4], [0.3, 0.3, 0.7])
    assert reduced_error(p, y, 2).indices.tolist() == [0, 2]
    assert reduced_error(p, y, 1).indices.tolist() == [0]


def test_elimination_by_hand():
    # Without C the last sample is at 0.1; B is hardly missed if A stays.
    p, y = of_likelihoods([0.9, 0.9, 0.1], [0.8, 0.8, 0.1], [0.45, 0.45, 0.9])
    selection = backward_elimination(p, y, 2)
    assert selection.indices.tolist() == [0, 2]
    assert selection.method == "backward_elimination by nll"
    assert backward_elimination(p, y, 2, start=2).indices.tolist() == [0, 1]


def test_single_precision_is_enough_after_many_were_added():
    # The sum of 3,000 learners in single precision has steps of 1e-4. The last class
    # is right, but class 0 wins ties: the first sample is wrong until learner 7 goes.
    right = np.full((3000, 2), [0.5, 0.4], np.float32)
    right[3, 0], right[7] = 0.5 + 1e-5, [0.5 - 1e-5, 0.9]
    p = np.stack([1 - right, right], axis=2)
    selection = backward_elimination(p, [1, 1], 2999, loss="error")
    assert set(range(3000)) - set(selection.indices.tolist()) == {7}


def test_bad_arguments():
    p, y = of_likelihoods([0.9, 0.4], [0.2, 0.9], [0.3, 0.9])
    with pytest.raises(ValueError, match=r"at least one round.*n_rounds=0"):
        greedy(p, y, 2, n_rounds=0)
    with pytest.raises(TypeError, match=r"integer number of rounds.*n_rounds=2\.5"):
        greedy(p, y, 2, n_rounds=2.5)
    for choose in (greedy, backward_elimination):
        with pytest.raises(ValueError, match=r"one of \['nll', 'error'\].*'mse'"):
            choose(p, y, 2, loss="mse")
    for start in (1, 4):
        with pytest.raises(ValueError, match=f"n_members=2 to 3.*start={start}"):
            backward_elimination(p, y, 2, start=start)
