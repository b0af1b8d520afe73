"""Properties that all ordering methods share."""

import inspect
import re
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from selection_cases import check_permuted, check_selection, pool, pools

from keras_micronets import selection
from keras_micronets.selection.ordering import by_loss, by_votes

NAMES = [
    "backward_elimination",
    "complementariness",
    "drep",
    "epic",
    "greedy",
    "kappa_pruning",
    "margin_distance",
    "mdep",
    "orientation_ordering",
    "reduced_error",
]
METHODS = {name: getattr(selection, name) for name in NAMES}
METHODS["greedy by error"] = partial(selection.greedy, loss="error")
METHODS["elimination by error"] = partial(selection.backward_elimination, loss="error")

every = pytest.mark.parametrize("choose", METHODS.values(), ids=METHODS)


@every
@settings(deadline=None, max_examples=30)
@given(pools())
def test_any_pool(choose, case):
    p, y = case
    n_members = min(4, len(p))
    choose = partial(choose, n_members=n_members)
    check_selection(choose(p, y), len(p), n_members)
    check_permuted(choose, p, y)


@every
def test_the_same_twice_and_with_any_seed(choose):
    p, y = pool(3)
    results = [choose(p, y, 4, random_state=seed) for seed in (None, 0, 1)]
    for result in results[1:]:
        np.testing.assert_array_equal(result.indices, results[0].indices)
        np.testing.assert_array_equal(result.weights, results[0].weights)


@every
def test_all_may_be_kept(choose):
    p, y = pool(4)
    selected = choose(p, y, len(p))
    check_selection(selected, len(p), len(p))
    if "greedy" not in selected.method:
        np.testing.assert_array_equal(selected.indices, np.arange(len(p)))


@every
def test_pools_at_the_edge(choose):
    random = np.random.default_rng(5)
    y = random.integers(0, 3, 9)
    right, one = np.eye(3)[y], np.eye(3)[np.zeros(9, int)]
    edges = {
        "one learner": right[None],
        "identical": np.repeat(random.dirichlet(np.ones(3), (1, 9)), 5, axis=0),
        "constant": np.stack([one[:, [0, 1, 2]], one[:, [1, 0, 2]], one[:, [1, 2, 0]]]),
        "undecided": np.full((4, 9, 3), 1 / 3),
        "all right": np.stack([right, 0.5 * right + 0.5 / 3, 0.9 * right + 0.1 / 3]),
        "all wrong": np.stack(
            [right[:, [1, 2, 0]], right[:, [2, 0, 1]], (1 - right) / 2]
        ),
    }
    for name, p in edges.items():
        for n_members in range(1, len(p) + 1):
            selected = choose(p, y, n_members)
            check_selection(selected, len(p), n_members)
            if "greedy" not in selected.method:
                assert len(selected.indices) == n_members, name


@every
def test_one_sample(choose):
    p, _ = pool(6, n_samples=1)
    check_selection(choose(p, [1], 3), len(p), 3)


@every
def test_more_members_than_learners(choose):
    p, y = pool(7, copies=False)
    with pytest.raises(ValueError, match=r"from 1 to 8.*n_members=9"):
        choose(p, y, 9)
    with pytest.raises(ValueError, match="labels of shape"):
        choose(p, y[1:], 2)


@every
def test_half_precision_on_disk(choose, tmp_path):
    p, y = pool(8, n_learners=20, n_samples=30)  # multiples of 1/8 are the same in all
    np.save(tmp_path / "p.npy", p.astype(np.float16))
    on_disk = np.load(tmp_path / "p.npy", mmap_mode="r")
    actual, expected = choose(on_disk, y, 5), choose(p, y, 5)
    # The order of copies alone depends on the type.
    np.testing.assert_array_equal(
        np.sort(p[actual.indices], axis=0), np.sort(p[expected.indices], axis=0)
    )


@every
def test_blocks_change_nothing(choose, monkeypatch):
    p, y = pool(9, n_learners=20, n_samples=30)
    expected = choose(p, y, 6)
    for module, name, value in (
        (by_loss, "_BLOCK", 200),
        (by_votes, "_BLOCK", 100),
    ):
        monkeypatch.setattr(module, name, value)
    actual = choose(p, y, 6)
    np.testing.assert_array_equal(actual.indices, expected.indices)
    np.testing.assert_array_equal(actual.weights, expected.weights)


@pytest.mark.parametrize("name", NAMES)
def test_one_signature(name):
    parameters = inspect.signature(METHODS[name]).parameters
    assert list(parameters)[:3] == ["probabilities", "y", "n_members"]
    assert parameters["n_members"].default == 4
    assert parameters["random_state"].kind is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize("name", NAMES)
def test_the_example_is_true(name):
    code = inspect.getdoc(METHODS[name]).split("```")[1].removeprefix("python")
    *setup, last = code.strip().split("\n")
    call, comment = last.split("  # ")
    scope = {"np": np, "array": np.array, name: METHODS[name]}
    exec("\n".join(setup), scope)
    actual, expected = eval(call, scope), eval(comment, scope)
    for a, b in zip(*map(np.atleast_2d, (actual, expected)), strict=True):
        np.testing.assert_allclose(a, b, atol=0.01)


@pytest.mark.parametrize("name", [*NAMES, "top_k", "random_k"])
def test_each_argument_is_documented_once(name):
    method = getattr(selection, name)
    doc = inspect.getdoc(method)
    arguments = doc.split("\n\nArgs:\n")[1].split("\n\nReturns:\n")[0]
    documented = re.findall(r"^    (\w+):", arguments, re.MULTILINE)
    assert documented == list(inspect.signature(method).parameters)
    assert [doc.count(f"\n\n{title}:\n") for title in ("Raises", "Example")] == [1, 1]


def test_unknown_options_are_rejected():
    p, y = pool(0)
    with pytest.raises(TypeError, match="alhpa"):
        selection.mdep(p, y, alhpa=0.5)
