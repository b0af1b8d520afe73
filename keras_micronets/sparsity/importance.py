"""Score the importance of weights: functions `(weights, gradients) -> scores`.

The weights with the lowest scores are removed first. A function that needs gradients
has an attribute `needs_gradients = True`; others receive `None`. An importance with a
state for each kernel, such as `Movement`, has a method `for_kernel(key)` that returns
the function for one kernel.
"""

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import numpy as np

from keras_micronets._serialization import Configurable, serializable

__all__ = ["Movement", "Random", "as_importance", "magnitude", "taylor"]


@serializable()
def magnitude(weights: np.ndarray, gradients: np.ndarray | None = None) -> np.ndarray:
    """Score weights by their magnitude."""
    return np.abs(weights)


@serializable()
def taylor(weights: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Score weights by how much the loss would change without them, to first order.

    The score is `|weights * gradients|`.

    Reference: Molchanov et al. 2019, "Importance estimation for neural network
    pruning".
    """
    return np.abs(weights * gradients)


taylor.needs_gradients = True


@serializable()
class Movement(Configurable):
    """Score weights by how far training moves them away from zero.

    The score is the sum of `-weight * gradient` over all calls: high where descent
    increases the magnitude of a weight, low where descent decreases it. The sums are
    kept in this object, one array for each kernel, and are not saved: they start at
    zero when a run resumes.

    Unlike in the paper, sums are updated when masks are, not at each training step,
    and the optimizer trains weights only.

    Example:

    ```python
    movement = keras_micronets.sparsity.Movement()
    movement(np.array([1.0, -1.0]), np.array([0.5, 0.5]))  # [-0.5, 0.5]
    movement(np.array([1.0, -1.0]), np.array([0.5, 0.5]))  # [-1.0, 1.0]
    ```

    Reference: Sanh et al. 2020, "Movement pruning: adaptive sparsity by fine-tuning".
    """

    needs_gradients = True

    def __init__(self) -> None:
        self._sums: dict[Hashable, np.ndarray] = {}

    def for_kernel(self, kernel: Hashable) -> Callable:
        """Return the importance function that adds to the sums of one kernel."""
        return partial(self, kernel=kernel)

    def __call__(
        self,
        weights: np.ndarray,
        gradients: np.ndarray,
        *,
        kernel: Hashable | None = None,
    ) -> np.ndarray:
        """Add to the sums of a kernel, named by any key, and return them."""
        total = self._sums.get(kernel, np.float32(0)) - weights * gradients
        self._sums[kernel] = total
        return total


@serializable()
class Random(Configurable):
    """Score weights at random.

    Args:
        seed: Integer or sequence of integers, as for `numpy.random.default_rng`.
            Defaults to `0`.

    Example:

    ```python
    keras_micronets.sparsity.Random(seed=1)(np.ones((2, 3)))  # numbers in [0, 1)
    ```
    """

    needs_gradients = False

    def __init__(self, seed: Any = 0):
        self.seed = seed
        self._rng = np.random.default_rng(seed)

    def __call__(
        self, weights: np.ndarray, gradients: np.ndarray | None = None
    ) -> np.ndarray:
        """Return numbers in [0, 1) of the shape of `weights`, new ones at each call."""
        return self._rng.random(weights.shape, np.float32)


_IMPORTANCE: dict[str, Callable[[int], Callable]] = {
    "magnitude": lambda seed: magnitude,
    "random": Random,
    "taylor": lambda seed: taylor,
    "movement": lambda seed: Movement(),
}


def as_importance(importance: Any, *, seed: int = 0) -> Callable:
    """Return an importance as a function; a name makes a new one.

    Args:
        importance: `"magnitude"`, `"random"`, `"taylor"`, `"movement"` or a function;
            `None` for `"magnitude"`.
        seed: Integer, for `"random"`. Defaults to `0`.

    Raises:
        ValueError: If it is none of the above.
    """
    if callable(importance):
        return importance
    name = "magnitude" if importance is None else importance
    if name not in _IMPORTANCE:
        raise ValueError(
            f"Expected `importance` to be one of {tuple(_IMPORTANCE)} or a function "
            f"`(weights, gradients) -> scores`. Received: importance={importance!r}."
        )
    return _IMPORTANCE[name](seed)


def needs_gradients(importance: Callable) -> bool:
    """Return whether an importance function needs gradients."""
    return getattr(importance, "needs_gradients", False)
