from fractions import Fraction
from math import ceil, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selection_cases import pool, pools

from keras_micronets.selection import (
    complementariness,
    drep,
    epic,
    kappa_pruning,
    margin_distance,
    mdep,
    orientation_ordering,
)
from keras_micronets.selection.candidates import Candidates

# Each slow version takes predictions, one list per learner, the best first, and labels.

N_CLASSES = 30  # at most


def vote_of(predictions, chosen, sample):
    votes = [0] * N_CLASSES
    for i in chosen:
        votes[predictions[i][sample]] += 1
    return votes.index(max(votes))


def signature(prediction, y):
    return [1 if a == b else -1 for a, b in zip(prediction, y, strict=True)]


def dot(a, b):
    return sum(x * z for x, z in zip(a, b, strict=True))


def best_of(scores, n_members):
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:n_members]


def slow_complementariness(predictions, y, n_members):
    chosen = [0]
    while len(chosen) < n_members:
        wrong = [s for s, t in enumerate(y) if vote_of(predictions, chosen, s) != t]
        left = [i for i in range(len(predictions)) if i not in chosen]
        chosen.append(
            max(left, key=lambda i: sum(predictions[i][s] == y[s] for s in wrong))
        )
    return chosen


def slow_margin_distance(predictions, y, n_members, p=Fraction(75, 1000)):
    signatures = [signature(row, y) for row in predictions]
    chosen = []
    while len(chosen) < n_members:
        distances = {}
        for i in range(len(predictions)):
            if i not in chosen:
                rows = zip(*(signatures[j] for j in [*chosen, i]), strict=True)
                means = [Fraction(sum(row), len(chosen) + 1) for row in rows]
                distances[i] = sum((p - mean) ** 2 for mean in means)
        chosen.append(min(distances, key=distances.get))
    return chosen


def reference(signatures):
    n = len(signatures)
    mean = [Fraction(sum(row), n) for row in zip(*signatures, strict=True)]
    if not any(mean):
        return [1] * len(mean)
    along = Fraction(sum(mean)) / dot(mean, mean)
    return [1 - along * value for value in mean]


def slow_orientation(predictions, y, n_members):
    signatures = [signature(row, y) for row in predictions]
    to = reference(signatures)
    return best_of([dot(row, to) for row in signatures], n_members)


def slow_epic(predictions, y, n_members):
    scores = [0] * len(predictions)
    for s, t in enumerate(y):
        votes = [sum(row[s] == k for row in predictions) for k in range(N_CLASSES)]
        second, most = sorted(votes)[-2:]
        for i, row in enumerate(predictions):
            if row[s] != t:
                scores[i] += votes[t] - votes[row[s]] - most
            elif votes[t] == most:
                scores[i] += second
            else:
                scores[i] += 2 * most - votes[t]
    return best_of(scores, n_members)


def slow_mdep(predictions, y, n_members, alpha=0.2):
    n, scores = len(predictions), [0] * len(predictions)
    for s, t in enumerate(y):
        votes = [sum(row[s] == k for row in predictions) for k in range(N_CLASSES)]
        margin = abs(votes[t] - max(votes[:t] + votes[t + 1 :])) or 0.5
        for i, row in enumerate(predictions):
            if row[s] == t:
                scores[i] -= alpha * log(margin / n)
                scores[i] -= (1 - alpha) * log(votes[t] / n)
    return best_of([round(score, 9) for score in scores], n_members)


def slow_drep(predictions, y, n_members, rho=0.4):
    samples, chosen = range(len(y)), [0]
    while len(chosen) < n_members:
        left = [i for i in range(len(predictions)) if i not in chosen]
        vote = [vote_of(predictions, chosen, s) for s in samples]
        left.sort(key=lambda i: sum(predictions[i][s] == vote[s] for s in samples))
        errors = {}
        for i in sorted(left[: ceil(rho * len(left) - 1e-9)]):
            after = [vote_of(predictions, [*chosen, i], s) for s in samples]
            errors[i] = sum(a != t for a, t in zip(after, y, strict=True))
        chosen.append(min(errors, key=errors.get))
    return chosen


def slow_kappa(a, b):
    n = len(a)
    agree = Fraction(sum(x == z for x, z in zip(a, b, strict=True)), n)
    chance = sum(Fraction(a.count(k) * b.count(k), n * n) for k in range(N_CLASSES))
    return 1 if chance == 1 else (agree - chance) / (1 - chance)


def slow_kappa_pruning(predictions, y, n_members):
    n = len(predictions)
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    pairs.sort(key=lambda pair: np.float32(slow_kappa(*(predictions[i] for i in pair))))
    chosen = []
    for pair in pairs:
        chosen += [i for i in pair if i not in chosen]
    return (chosen or [0])[:n_members]


SLOW = {
    complementariness: slow_complementariness,
    margin_distance: slow_margin_distance,
    orientation_ordering: slow_orientation,
    epic: slow_epic,
    mdep: slow_mdep,
    drep: slow_drep,
    kappa_pruning: slow_kappa_pruning,
}


def assert_like_the_slow_version(choose, p, y, n_members):
    order = Candidates(p, y).order
    predictions = p[order].argmax(axis=2).tolist()
    indices = SLOW[choose](predictions, y.tolist(), n_members)
    selection = choose(p, y, n_members)
    np.testing.assert_array_equal(selection.indices, np.sort(order[indices]))
    np.testing.assert_allclose(selection.weights, 1 / n_members)
    assert selection.method == choose.__name__


@pytest.mark.parametrize("choose", list(SLOW))
@settings(deadline=None, max_examples=60)
@given(pools(), st.integers(1, 7))
def test_against_a_slow_version(choose, case, n_members):
    p, y = case
    assert_like_the_slow_version(choose, p, y, min(n_members, len(p)))


@pytest.mark.parametrize("choose", list(SLOW))
def test_larger_pools_against_a_slow_version(choose):
    for seed in range(6):
        p, y = pool(seed, n_learners=25, n_samples=20, n_classes=4)
        for n_members in (1, 4, 9):
            assert_like_the_slow_version(choose, p, y, n_members)


@pytest.mark.parametrize("choose", list(SLOW))
def test_more_classes_than_learners_against_a_slow_version(choose):
    for seed in range(6):
        p, y = pool(seed, 8, 20, N_CLASSES, coarse=seed % 2, copies=seed > 2)
        for n_members in (1, 3, 7):
            assert_like_the_slow_version(choose, p, y, n_members)


@pytest.mark.parametrize(
    ("choose", "keyword", "values"),
    [
        (margin_distance, "p", (0.01, 0.25, 0.9)),
        (mdep, "alpha", (0, 0.5, 1)),
        (drep, "rho", (0.01, 0.2, 1)),
    ],
)
@settings(deadline=None, max_examples=20)
@given(case=pools(), n_members=st.integers(1, 5))
def test_parameters_against_a_slow_version(choose, keyword, values, case, n_members):
    p, y = case
    n_members = min(n_members, len(p))
    order = Candidates(p, y).order
    predictions = p[order].argmax(axis=2).tolist()
    for value in values:
        exact = Fraction(str(value)) if choose is margin_distance else value
        own = {keyword: exact}
        places = SLOW[choose](predictions, y.tolist(), n_members, **own)
        selection = choose(p, y, n_members, **{keyword: value})
        np.testing.assert_array_equal(selection.indices, np.sort(order[places]))


def learners(*rows, n_classes=3):
    """Learners by the digits of the classes that they predict.

    Class 0 is right; among those that are right as often, the first is the best.
    """
    predictions = np.array([[int(digit) for digit in row] for row in rows])
    sure = np.linspace(0.9, 0.7, len(rows))[:, None]
    top = np.where(predictions == 0, sure, 0.6)[..., None]
    one_hot = np.eye(n_classes)[predictions]
    return top * one_hot + (1 - top) * (1 - one_hot) / (n_classes - 1)


def test_complementariness_by_hand():
    # A is wrong on the last two samples. B knows neither, C one, D both.
    p = learners("0000011", "0000022", "1110001", "2222200")
    assert complementariness(p, [0] * 7, 2).indices.tolist() == [0, 3]
    # A and D never agree; class 0 is the lowest, so that it wins all ties and nothing
    # is wrong. All others help as much then, and the most accurate comes.
    assert complementariness(p, [0] * 7, 3).indices.tolist() == [0, 1, 3]


def test_margin_distance_looks_at_samples():
    # PyPruning averages a signature over its samples: A, B and C are the same then.
    p = learners("0001", "0001", "0100")
    assert margin_distance(p, [0] * 4, 2).indices.tolist() == [0, 2]


def test_margin_distance_when_equals_differ_by_rounding():
    p, y = pool(3, n_learners=25, n_samples=20, n_classes=4)
    order = Candidates(p, y).order
    predictions = p[order].argmax(axis=2).tolist()
    places = slow_margin_distance(predictions, y.tolist(), 12, p=Fraction(1, 5))
    selection = margin_distance(p, y, 12, p=0.2)
    np.testing.assert_array_equal(selection.indices, np.sort(order[places]))


def test_the_reference_is_the_papers():
    # Mean signature (1, 1/2, -1/2), hence reference (1/3, 2/3, 4/3) and products
    # -1/3 three times, and 1: PyPruning takes the least of the cosines.
    p = learners("001", "001", "001", "010")
    signatures = [[1, 1, -1]] * 3 + [[1, -1, 1]]
    expected = [Fraction(1, 3), Fraction(2, 3), Fraction(4, 3)]
    assert reference(signatures) == expected
    assert orientation_ordering(p, [0] * 3, 1).indices.tolist() == [3]
    # The others are beyond 90 degrees, but there are no other learners.
    assert orientation_ordering(p, [0] * 3, 2).indices.tolist() == [0, 3]


def test_orientation_when_there_is_no_direction():
    # The mean is along the diagonal, exactly, and no angle counts.
    p = learners("001", "010", "100")
    assert orientation_ordering(p, [0] * 3, 2).indices.tolist() == [0, 1]
    # The mean is zero: the diagonal itself ranks, that is, accuracy.
    p = learners("110", "001")
    assert orientation_ordering(p, [0] * 3, 1).indices.tolist() == [1]


def test_epic_by_hand():
    # Votes: (3, 1, 0), (1, 2, 1), (2, 0, 2). Contributions:
    # A 1 + (1 - 2 - 2) + 2 = 0, B 1 - 3 + 2 = 0, C 1 + (2 * 2 - 1) + (2 - 2 - 2) = 2,
    # D (3 - 1 - 3) + (1 - 1 - 2) - 2 = -5.
    p = learners("010", "010", "002", "122")
    for n_members, kept in ((1, [2]), (2, [0, 2]), (3, [0, 1, 2])):
        assert epic(p, [0] * 3, n_members).indices.tolist() == kept


def test_mdep_by_hand():
    # A right learner scores nothing on the first sample, as all are right,
    # -0.2 log(1/8) - 0.8 log(2/4) = 0.97 on the second, a tie, and -log(1/4) = 1.39 on
    # the third.
    p = learners("001", "001", "010", "012")
    assert mdep(p, [0] * 3, 1).indices.tolist() == [2]
    assert mdep(p, [0] * 3, 2).indices.tolist() == [0, 2]
    # By margins alone, the tie counts log(8), more than log(4) for one vote.
    p = learners("010", "001", "001", "012")
    assert mdep(p, [0] * 3, 1, alpha=1).indices.tolist() == [1]


def test_mdep_prefers_learners_that_are_right():
    # The sum of logarithms is negative: its largest value is for those always wrong.
    p = learners("0012", "0101", "0210", "1111", "2222")
    assert mdep(p, [0] * 4, 3).indices.tolist() == [0, 1, 2]


def test_drep_looks_only_at_the_least_agreeing():
    # PyPruning's never finds a learner among the least agreeing, and takes the first.
    # A comes first. B, C, D and E agree with it on 5, 4, 2 and 0 samples. With D, no
    # sample is wrong, as class 0 wins ties; with E the last is.
    p = learners("000001", "000011", "000111", "111000", "222222")
    assert drep(p, [0] * 6, 2, rho=0.5).indices.tolist() == [0, 3]
    assert drep(p, [0] * 6, 2, rho=0.25).indices.tolist() == [0, 4]


def test_kappa_by_hand():
    # A and B agree on 3 of 4, by chance on 1/2: 1/2. A and C never do: -1. B and C
    # agree on 1 of 4, by chance on 1/2: -1/2.
    p = learners("0011", "0001", "1100", n_classes=2)
    assert slow_kappa([0, 0, 1, 1], [0, 0, 0, 1]) == Fraction(1, 2)
    assert kappa_pruning(p, [0] * 4, 2).indices.tolist() == [0, 2]
    # Of the last pair one is enough, the more accurate.
    assert kappa_pruning(p, [0] * 4, 1).indices.tolist() == [0]


@pytest.mark.parametrize(
    ("choose", "keyword", "values"),
    [
        (margin_distance, "p", (0, 1, np.nan)),
        (mdep, "alpha", (-0.1, 1.1, np.nan)),
        (drep, "rho", (0, 1.1, np.nan)),
    ],
)
def test_parameters_out_of_range(choose, keyword, values):
    p = learners("01", "00")
    for value in values:
        with pytest.raises(ValueError, match=f"Expected {keyword} .*{value}"):
            choose(p, [0, 0], 1, **{keyword: value})
