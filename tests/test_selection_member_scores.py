import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selection_cases import pool

from keras_micronets.selection import Selection, random_k, scores_by_members, top_k
from keras_micronets.selection.cross_validation import mean_of, member_counts


def numbered_pool(seed, n_learners=6, n_samples=11):
    """Return a pool in which the predictions of learner 0 identify each sample."""
    p, y = pool(seed, n_learners, n_samples, coarse=False, copies=False)
    p[0] = np.linspace(0.1, 0.2, n_samples)[:, None] * [[1, 1, 0]]
    p[0, :, 2] = 1 - p[0].sum(axis=1)
    return p, y


def weighted(p, y, n_members=4, *, random_state=None):
    """Keep random learners with random weights, fewer than asked for if many."""
    random = np.random.RandomState(random_state)
    indices = np.sort(random.permutation(len(p))[: min(n_members, 3)])
    weights = random.dirichlet(np.ones(len(indices)))
    return Selection(indices, np.zeros(len(p), int), weights, "weighted")


def slow_scores(p, y, seen, kept, weights):
    """Score on the samples that are not `seen`, one after the other."""
    right, loss, count = 0, 0.0, 0
    for s in range(len(y)):
        if s in seen:
            continue
        mean = [
            sum(w * p[i][s][c] for i, w in zip(kept, weights, strict=True))
            for c in range(p.shape[2])
        ]
        right += max(range(len(mean)), key=lambda c: (mean[c], -c)) == y[s]
        loss -= np.log(max(mean[y[s]], 1e-7))
        count += 1
    return right / count, loss / count


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.integers(2, 6), st.integers(2, 11))
def test_scores_against_a_slow_version(seed, n_learners, n_samples):
    p, y = numbered_pool(seed, n_learners, n_samples)
    calls = []

    def spy(half, labels, n_members, *, random_state):
        chosen = weighted(half, labels, n_members, random_state=random_state)
        seen = [int(np.argmin(np.abs(p[0, :, 0] - x))) for x in half[0, :, 0]]
        np.testing.assert_array_equal(labels, y[seen])
        calls.append((seen, chosen))
        return chosen

    scores = scores_by_members(p, y, {"spy": spy}, n_members=[1, 2], n_resamples=3)
    assert len(calls) == 6
    for i, (seen, chosen) in enumerate(calls):
        split, point = divmod(i, 2)
        assert len(seen) == len(set(seen)) == n_samples // 2
        assert scores.n_kept["spy"][split, point] == len(chosen.indices)
        result = slow_scores(p, y, seen, chosen.indices, chosen.weights)
        got = scores.accuracy["spy"][split, point]
        nll = scores.negative_log_likelihood["spy"][split, point]
        np.testing.assert_allclose((got, nll), result)
        best = top_k(p[:, seen], y[seen], 1).indices
        everyone = range(n_learners)
        for line, kept in ((scores.best_learner, best), (scores.mean_of_all, everyone)):
            result = slow_scores(p, y, seen, kept, [1 / len(kept)] * len(kept))
            got = line["accuracy"][split], line["negative_log_likelihood"][split]
            np.testing.assert_allclose(got, result)


def test_all_methods_see_the_same_splits_and_seeds():
    p, y = pool(0, 10, 30)
    methods = {"a": random_k, "b": random_k}
    scores = scores_by_members(p, y, methods, n_resamples=4)
    np.testing.assert_array_equal(scores.accuracy["a"], scores.accuracy["b"])
    assert len(np.unique(scores.accuracy["a"])) > 2
    again = scores_by_members(p, y, methods, n_resamples=4)
    np.testing.assert_array_equal(scores.accuracy["a"], again.accuracy["a"])
    other = scores_by_members(p, y, methods, n_resamples=4, random_state=1)
    assert (scores.accuracy["a"] != other.accuracy["a"]).any()


def test_half_precision_on_disk(tmp_path):
    p, y = pool(1, 9, 40)
    np.save(tmp_path / "p.npy", p.astype(np.float16))
    mapped = np.load(tmp_path / "p.npy", mmap_mode="r")
    one, two = (
        scores_by_members(q, y, {"top_k": top_k}, n_members=[3], n_resamples=3)
        for q in (mapped, p)
    )
    np.testing.assert_allclose(
        one.negative_log_likelihood["top_k"],
        two.negative_log_likelihood["top_k"],
        rtol=1e-3,
    )
    np.testing.assert_allclose(mean_of(mapped), p.mean(axis=0), atol=1e-3)


def test_a_gap_where_a_method_fails():
    def fussy(p, y, n_members=4, *, random_state=None):
        if n_members > 1:
            raise ValueError
        return top_k(p, y, n_members)

    p, y = pool(0)
    scores = scores_by_members(p, y, {"fussy": fussy}, n_members=[1, 2], n_resamples=3)
    for values in (scores.accuracy, scores.negative_log_likelihood, scores.n_kept):
        assert np.isfinite(values["fussy"][:, 0]).all()
        assert np.isnan(values["fussy"][:, 1]).all()


def test_numbers_of_members():
    assert member_counts(100, 64) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
    assert member_counts(100) == [1, 2, 3, 4, 6, 8]
    assert member_counts(5) == [1, 2, 3, 4]
    assert member_counts(1) == member_counts(9, 1) == [1]
    p, y = pool(0)
    scores = scores_by_members(p, y, {"top_k": top_k}, n_resamples=1)
    np.testing.assert_array_equal(scores.n_members, [1, 2, 3, 4, 6, 8])


def test_progress(capsys):
    p, y = pool(0)
    scores_by_members(p, y, {"top_k": top_k}, n_resamples=2)
    assert capsys.readouterr().err == ""
    scores_by_members(p, y, {"top_k": top_k}, n_resamples=2, verbose=1)
    assert "splits: 50%" in capsys.readouterr().err


def test_bad_input():
    p, y = pool(0)
    with pytest.raises(ValueError, match="at least two samples"):
        scores_by_members(p[:, :1], y[:1], {"top_k": top_k})
    with pytest.raises(ValueError, match="at least one split"):
        scores_by_members(p, y, {"top_k": top_k}, n_resamples=0)
    with pytest.raises(ValueError, match="at least one method"):
        scores_by_members(p, y, {})
    with pytest.raises(ValueError, match="n_members=99"):
        scores_by_members(p, y, {"top_k": top_k}, n_members=[1, 99])
    with pytest.raises(ValueError, match="labels of shape"):
        scores_by_members(p, y[1:], {"top_k": top_k})
