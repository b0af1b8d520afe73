import numpy as np
import pytest

from keras_micronets.sparsity import (
    Movement,
    Random,
    as_importance,
    magnitude,
    needs_gradients,
    taylor,
)

WEIGHTS = np.array([[1.0, -2.0], [0.5, -0.25]], "float32")
GRADIENTS = np.array([[0.5, 1.0], [-2.0, -4.0]], "float32")


def test_scores():
    np.testing.assert_array_equal(magnitude(WEIGHTS), [[1.0, 2.0], [0.5, 0.25]])
    np.testing.assert_array_equal(taylor(WEIGHTS, GRADIENTS), [[0.5, 2.0], [1.0, 1.0]])
    for scores in (magnitude(WEIGHTS), taylor(WEIGHTS, GRADIENTS)):
        assert scores.dtype == np.float32


def test_movement_adds_up_kernel_by_kernel():
    movement = Movement()
    first, second = movement.for_kernel("first"), movement.for_kernel("second")
    once = -WEIGHTS * GRADIENTS
    np.testing.assert_array_equal(first(WEIGHTS, GRADIENTS), once)
    np.testing.assert_array_equal(first(WEIGHTS, GRADIENTS), 2 * once)
    np.testing.assert_array_equal(second(WEIGHTS, GRADIENTS), once)
    np.testing.assert_array_equal(movement(WEIGHTS, GRADIENTS), once)
    again = movement.for_kernel("first")(WEIGHTS, 0 * GRADIENTS)
    np.testing.assert_array_equal(again, 2 * once)
    assert again.dtype == np.float32


def test_random_scores_depend_on_the_seed_only():
    first, same, other = Random(3), Random(3), Random(4)
    scores = first(WEIGHTS)
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores, same(10 * WEIGHTS))
    assert (scores != other(WEIGHTS)).any()
    assert (scores != first(WEIGHTS)).any()


def test_importance_is_a_name_or_a_function():
    assert as_importance("magnitude") is magnitude
    assert as_importance(taylor) is taylor
    np.testing.assert_array_equal(
        as_importance("random", seed=5)(WEIGHTS), Random(5)(WEIGHTS)
    )
    assert as_importance("movement") is not as_importance("movement")
    with pytest.raises(ValueError, match="importance='size'"):
        as_importance("size")


def test_importance_declares_whether_it_needs_gradients():
    named = ("magnitude", "random", "taylor", "movement")
    needs = [needs_gradients(as_importance(name)) for name in named]
    assert needs == [False, False, True, True]
    assert not needs_gradients(lambda weights, gradients: weights)
