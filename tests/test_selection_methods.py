"""Properties that all selection methods share, and their errors."""

import time
import warnings
from functools import partial

import numpy as np
import pytest
from selection_cases import check_permuted, check_selection, pool
from sklearn.exceptions import ConvergenceWarning

from keras_micronets.selection import METHODS, EnsembleSelector, auto

CHOOSE = {name: partial(method, random_state=0) for name, method in METHODS.items()} | {
    "auto": partial(auto, n_repeats=1, nested=False, random_state=0)
}
each = pytest.mark.parametrize("choose", CHOOSE.values(), ids=CHOOSE.keys())

pytestmark = pytest.mark.filterwarnings(
    f"ignore::{ConvergenceWarning.__module__}.{ConvergenceWarning.__name__}"
)


@each
def test_a_selection_is_valid_and_repeats(choose):
    for seed in range(3):
        p, y = pool(seed, n_learners=9, n_samples=30, coarse=False)
        chosen = choose(p, y, 3)
        check_selection(chosen, len(p), 3)
        again = choose(p.copy(), y.copy(), 3)
        np.testing.assert_array_equal(again.indices, chosen.indices)
        np.testing.assert_array_equal(again.weights, chosen.weights)


@pytest.mark.parametrize("name", METHODS)
def test_many_classes_take_less_than_two_seconds_per_learner(name):
    random = np.random.default_rng(0)
    p = random.dirichlet(np.ones(1500), (6, 300))
    y = random.integers(0, 1500, 300)
    start = time.process_time()  # a busy machine does not count
    METHODS[name](p, y, 3, random_state=0)
    assert time.process_time() - start < 2 * len(p)


@each
def test_the_order_of_learners_does_not_matter(choose):
    for seed in range(3):
        p, y = pool(seed, n_learners=7, n_samples=20, coarse=seed % 2)
        check_permuted(partial(choose, n_members=2), p, y, seed)


@each
def test_half_precision_on_disk(choose, tmp_path):
    p, y = pool(1, n_learners=9, n_samples=30, coarse=False)
    np.save(tmp_path / "p.npy", p.astype(np.float16))
    mapped = np.load(tmp_path / "p.npy", mmap_mode="r")
    in_memory = np.asarray(mapped).astype(np.float32)
    before = mapped.copy()
    expected = choose(in_memory, y, 3)
    np.testing.assert_array_equal(choose(mapped, y, 3).indices, expected.indices)
    np.testing.assert_array_equal(mapped, before)


def test_predicting_needs_no_labels_and_is_the_same_for_any():
    """Predictions do not depend on the labels of the scored samples."""
    p, y = pool(2, n_learners=9, n_samples=40, coarse=False)
    X = np.moveaxis(p, 0, 1)
    for name in METHODS:
        selector = EnsembleSelector(name, 3, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            selector.fit(X[:20], y[:20])
        one = selector.predict_proba(X[20:])
        parts = [selector.predict_proba(X[i : i + 1]) for i in range(20, 40)]
        np.testing.assert_allclose(np.concatenate(parts), one, atol=1e-12)


@each
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: np.where(np.arange(3) == 1, np.nan, p), "NaN or infinity"),
        (lambda p: 2 * p, "row summing to 2"),
        (lambda p: p - 0.5, "from_logits=True"),
        (lambda p: p[:0], "empty pool"),
        (lambda p: p[0], "shape"),
        (lambda p: [*p.tolist(), [[0.5, 0.5]]], "equal numbers of samples"),
    ],
    ids=["nan", "unnormalised", "negative", "none", "flat", "ragged"],
)
def test_bad_probabilities(choose, spoil, message):
    p, y = pool(0, coarse=False)
    with pytest.raises(ValueError, match=message):
        choose(spoil(p + 0.0), y, 2)


@each
def test_bad_labels_and_numbers(choose):
    p, y = pool(0)
    with pytest.raises(ValueError, match="labels of shape"):
        choose(p, y[:-1], 2)
    with pytest.raises(ValueError, match="labels from 0 to 2"):
        choose(p, y + 1, 2)
    with pytest.raises(ValueError, match=f"from 1 to {len(p)}"):
        choose(p, y, len(p) + 1)
    with pytest.raises(ValueError, match="n_members=0"):
        choose(p, y, 0)
    with pytest.raises(TypeError, match="integer number of members"):
        choose(p, y, 2.5)


@each
def test_one_learner(choose):
    p, y = pool(0, n_learners=1, copies=False)
    chosen = choose(p, y, 1)
    np.testing.assert_array_equal(chosen.indices, [0])
    np.testing.assert_array_equal(chosen.weights, [1])


@pytest.mark.parametrize("name", CHOOSE)
def test_all_learners_identical(name):
    """Clustering raises an error for identical learners; other methods keep any."""
    p, y = pool(0, n_learners=1, copies=False)
    p = np.repeat(p, 5, axis=0)
    if name == "cluster_then_forward":  # which keeps at most `n_members`
        assert len(CHOOSE[name](p, y, 2).indices) == 1
    elif name.startswith("cluster"):
        with pytest.raises(ValueError, match="Received: 1 of them"):
            CHOOSE[name](p, y, 2)
        assert len(CHOOSE[name](p, y, 1).indices) == 1
    else:
        check_selection(CHOOSE[name](p, y, 2), 5, 2)


@each
@pytest.mark.parametrize("y", [[0] * 8, [1] * 8], ids=["all right", "all wrong"])
def test_constant_predictions(choose, y):
    """Every learner always predicts class 0 of 3, each a little more confident."""
    first = np.linspace(0.5, 0.9, 6)[:, None]
    p = np.stack([first, (1 - first) / 2, (1 - first) / 2], axis=2).repeat(8, axis=1)
    check_selection(choose(p, y, 1), 6, 1)


@each
def test_more_classes_than_samples(choose):
    p = np.random.default_rng(0).dirichlet(np.ones(30), (6, 4))
    check_selection(choose(p, [3, 9, 29, 3], 2), 6, 2)
