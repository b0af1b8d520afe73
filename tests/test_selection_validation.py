import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_micronets.selection.validation import (
    as_labels,
    check_n_members,
    check_probabilities,
)

GOOD = np.full((3, 4, 2), 0.5, np.float32)


def changed(value, at=(1, 2)):
    p = GOOD.copy()
    p[at] = value
    return p


def test_float32_is_kept_without_a_copy():
    assert check_probabilities(GOOD) is GOOD


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("float16", "float16"), ("float64", "float64"), ("int64", "float64")],
)
def test_other_types_become_floats(dtype, expected):
    p = np.eye(2)[[[0, 1], [1, 1]]].astype(dtype)
    checked = check_probabilities(p)
    assert checked.dtype == expected
    np.testing.assert_array_equal(checked, p)


def test_the_probability_of_one_event_becomes_two_columns():
    checked = check_probabilities(np.array([[[0.25], [1.0]]], "float32"))
    np.testing.assert_array_equal(checked, [[[0.75, 0.25], [0.0, 1.0]]])
    assert checked.dtype == np.float32


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        ([], "empty pool"),
        (np.zeros((0, 4, 2)), "empty pool"),
        (GOOD[0], r"shape \(4, 2\)"),
        (GOOD[None], "learners, samples, classes"),
        (0.5, r"shape \(\)"),
        (GOOD[:, :0], "at least one sample"),
        (changed([np.nan, 0.5]), "NaN or infinity"),
        (changed([np.inf, -np.inf]), "NaN or infinity"),
        (changed([-0.5, 1.5]), "from_logits=True"),
        (np.full((3, 4, 1), 1.5), "from_logits=True"),
        (changed([0.5, 0.502]), "from_logits=True"),
        (changed([3.0, 4.0]), "learner 1, at sample 2, a row summing to 7"),
        ([[[0.5, 0.5]], [[0.2, 0.3, 0.5]]], "equal numbers of samples and classes"),
        ([[["a", "b"]]], "real numbers"),
        (GOOD.astype(complex), "real numbers"),
    ],
)
def test_bad_probabilities(probabilities, message):
    with pytest.raises(ValueError, match=message):
        check_probabilities(probabilities)


def test_errors_name_the_learner():
    with pytest.raises(ValueError, match="learner 'b', at sample 2"):
        check_probabilities(changed([3.0, 4.0]), ["a", "b", "c"])


def test_small_rounding_is_accepted():
    assert check_probabilities(changed([0.5, 0.5005])) is not None


@given(st.lists(st.integers(0, 4), min_size=1, max_size=9))
def test_all_forms_of_labels_are_one(labels):
    labels = np.array(labels)
    n = len(labels)
    for form in (labels, labels[:, None], np.eye(5)[labels], labels.astype("float32")):
        result = as_labels(form, 5, n)
        assert result.dtype == np.int64
        np.testing.assert_array_equal(result, labels)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0, 1, 3], "from 0 to 2"),
        ([0, -1, 1], "Received: -1 at sample 1"),
        ([0, 1], r"Received: shape \(2,\)"),
        ([0, 1, 2, 0], r"Received: shape \(4,\)"),
        (np.eye(4)[:3], r"Received: shape \(3, 4\)"),
        ([0, 0.5, 1], "integer labels. Received: 0.5 at sample 1"),
        ([0, np.nan, 1], "integer labels. Received: nan at sample 1"),
        ([0, 1, np.inf], "integer labels. Received: inf at sample 2"),
        ([[1, 0, 0], [0, 0.9, 0.1], [0, 0, 1]], "one-hot rows.*at sample 1.*argmax"),
        ([[1, 0, 0], [0, 1, 1], [0, 0, 1]], "one-hot"),
        ([[1, 0, 0], [0, 0, 0], [0, 0, 1]], "one-hot"),
        (["a", "b", "c"], "numeric labels"),
    ],
)
def test_bad_labels(y, message):
    with pytest.raises(ValueError, match=message):
        as_labels(y, 3, 3)


@pytest.mark.parametrize("dtype", [bool, "uint8", "uint64", "int32", "float16"])
def test_labels_of_any_numeric_type(dtype):
    result = as_labels(np.array([0, 1, 1], dtype), 2, 3)
    assert result.dtype == np.int64
    np.testing.assert_array_equal(result, [0, 1, 1])


@pytest.mark.parametrize("n_members", [0, -1, 6])
def test_n_members_outside(n_members):
    with pytest.raises(ValueError, match=f"from 1 to 5.*n_members={n_members}"):
        check_n_members(n_members, 5)


@pytest.mark.parametrize("n_members", [2.0, "2", None])
def test_n_members_not_an_integer(n_members):
    with pytest.raises(TypeError, match="integer number of members"):
        check_n_members(n_members, 5)


def test_n_members_of_numpy():
    assert check_n_members(np.int32(5), 5) == 5
