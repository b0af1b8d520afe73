from functools import partial

import numpy as np
import pytest
from selection_cases import check_permuted, check_selection, pool

from keras_micronets.selection import (
    METHODS,
    TRIED,
    Selection,
    auto,
    cluster,
    held_out_losses,
    top_k,
)
from keras_micronets.selection.methods import Choice

FAST = {"top_k": top_k, "by loss": partial(top_k, by="loss")}


def fixed(*indices):
    """Return a method that always keeps the same learners."""

    def choose(probabilities, y, n_members=None, *, random_state=None):
        weights = np.full(len(indices), 1 / len(indices))
        labels = np.zeros(len(probabilities), int)
        return Selection(np.array(indices), labels, weights, "fixed")

    return choose


def test_held_out_losses_against_a_slow_version():
    p, y = pool(1, n_samples=23, coarse=False)
    seen = []

    def spying(probabilities, y):
        seen.append(probabilities.shape[1])
        return fixed(0, 2)(probabilities, y)

    losses = held_out_losses([spying, fixed(1)], p, y, n_splits=5, n_repeats=2)
    assert losses.shape == (2, 10)
    assert sorted(seen) == [18] * 6 + [19] * 4
    # Each sample is scored once per repeat: folds add up to the whole.
    sizes = 23 - np.array(seen)
    for row, members in zip(losses, [(0, 2), (1,)], strict=True):
        right = [np.mean([p[m, i, y[i]] for m in members]) for i in range(23)]
        expected = -np.log(np.maximum(right, 1e-7)).mean()
        assert (row * sizes)[:5].sum() / 23 == pytest.approx(expected)
        assert (row * sizes)[5:].sum() / 23 == pytest.approx(expected)


def test_errors_and_methods_that_fail():
    p, y = pool(1, n_samples=10)
    losses = held_out_losses(
        [fixed(0), partial(cluster, n_members=len(p))], p, y, scoring="error"
    )
    assert np.isnan(losses[1]).all()
    expected = (p[0].argmax(-1) != y).mean()
    assert losses[0].mean() == pytest.approx(expected)


def test_no_method_sees_the_samples_it_is_scored_on():
    """A method never selects on a sample that it is scored on in the same fold."""
    p, y = pool(2, n_samples=12, coarse=False)
    seen = []

    def spying(probabilities, y):
        seen.append({row.tobytes() for row in probabilities[0]})
        return fixed(0)(probabilities, y)

    held_out_losses([spying], p, y, n_splits=4)
    everything = {row.tobytes() for row in p[0]}
    held_out = [everything - part for part in seen]
    assert [len(part) for part in held_out] == [3] * 4
    assert set.union(*held_out) == everything


def test_the_best_in_cross_validation_is_chosen():
    p, y = pool(3, n_learners=6, n_samples=60, coarse=False)
    order = np.argsort([-np.log(np.maximum(q[range(60), y], 1e-7)).mean() for q in p])
    methods = {"bad": fixed(order[-1]), "good": fixed(order[0]), "other": fixed(0, 1)}
    chosen = auto(p, y, 1, methods=methods, random_state=0)
    assert chosen.choice.method == chosen.choice.methods[chosen.choice.chosen]
    names = chosen.choice.methods
    best = names[np.argmin(held_out_losses(methods.values(), p, y).mean(1))]
    assert names[chosen.choice.chosen] == best != "bad"
    assert chosen.choice.optimism == pytest.approx(0, abs=1e-2)


def test_optimism_is_positive_where_all_methods_are_equal():
    """Of forty equal methods, the best score is better than any on new data."""
    random = np.random.default_rng(0)
    optimism = []
    for _ in range(5):
        p = random.dirichlet(np.ones(3), (40, 60))
        y = random.integers(0, 3, 60)
        methods = {str(i): fixed(i) for i in range(40)}
        choice = auto(p, y, 1, methods=methods, random_state=0).choice
        optimism.append(choice.optimism)
    assert np.mean(optimism) > 0.05


def test_several_numbers_of_members():
    p, y = pool(4, n_samples=40)
    chosen = auto(p, y, [1, 3], methods=FAST, random_state=0)
    assert chosen.choice.n_members == (1, 1, 3, 3)
    assert chosen.choice.methods == ("top_k", "by loss") * 2
    assert len(chosen.indices) == chosen.choice.n_members[chosen.choice.chosen]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_all_methods_by_default():
    p, y = pool(5, n_learners=12, n_samples=30, coarse=False)
    chosen = auto(p, y, 3, n_repeats=1, nested=False, random_state=0)
    assert chosen.choice.methods == tuple(TRIED)
    assert set(TRIED) < set(METHODS)
    check_selection(chosen, len(p), 3)
    again = auto(p, y, 3, n_repeats=1, nested=False, random_state=0)
    np.testing.assert_array_equal(again.indices, chosen.indices)
    check_permuted(
        partial(auto, n_members=2, n_repeats=1, nested=False, random_state=0), p, y
    )


def test_it_prints():
    choice = Choice(
        ("top_k", "cluster"),
        (2, 2),
        np.array([[0.5, 0.6], [np.nan, 0.4]]),
        0,
        "loss",
        20,
        0.57,
    )
    assert str(choice).splitlines() == [
        "method   members  held-out loss",
        "top_k          2  0.5500  chosen",
        "cluster        2  failed",
        "2 folds of 20 samples.",
        "Nested resampling, which repeats the choice in each outer fold: 0.5700. "
        "Selection bias: +0.0200.",
    ]


def test_bad_input():
    p, y = pool(6, copies=False)
    with pytest.raises(ValueError, match="scoring to be one of"):
        auto(p, y, 2, scoring="accuracy")
    with pytest.raises(ValueError, match="method to be one of"):
        auto(p, y, 2, methods=["magic"])
    with pytest.raises(TypeError, match="name or a function"):
        auto(p, y, 2, methods=[3])
    with pytest.raises(ValueError, match="n_members=99"):
        auto(p, y, [2, 99])
    with pytest.raises(ValueError, match="two samples"):
        auto(p[:, :1], y[:1], 2)
    alike = np.repeat(p[:1], 5, axis=0)
    with pytest.raises(ValueError, match="Received: 1 of them"):
        auto(alike, y, 2, methods=["cluster"])
    assert len(auto(alike, y, 2, methods=["cluster", "top_k"]).indices) == 2


def test_progress(capsys):
    p, y = pool(0, n_samples=20)
    auto(p, y, 1, methods=FAST, random_state=0)
    assert capsys.readouterr().err == ""
    auto(p, y, 1, methods=FAST, random_state=0, verbose=1)
    progress = capsys.readouterr().err
    assert "cross-validation: 100%" in progress
    assert "nested resampling: 100%" in progress
