"""How much each weight matters: functions `(weights, gradients) -> scores`.

The lowest scores are removed first. A criterion that needs gradients says so by an
attribute `needs_gradients = True`; others are given `None`. One that remembers, as
`Movement`, has a method `for_kernel(key)` that returns the function for one kernel.
"""

from collections.abc import Callable, Hashable
from functools import partial

import numpy as np


def magnitude(weights: np.ndarray, gradients: np.ndarray | None = None) -> np.ndarray:
    """Score weights by their magnitude.

    Args:
        weights: Float array.
        gradients: Ignored. Defaults to `None`.

    Returns:
        Float array of the same shape.
    """
    return np.abs(weights)


def taylor(weights: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Score weights by how much the loss would change without them, to first order.

    Args:
        weights: Float array.
        gradients: Float array of the same shape, of the loss.

    Returns:
        Float array of the same shape, `|weights * gradients|`.

    Reference: Molchanov et al. 2019, "Importance estimation for neural network
    pruning".
    """
    return np.abs(weights * gradients)


taylor.needs_gradients = True


class Movement:
    """Score weights by how far training moves them away from zero.

    The score is the sum of `-weight * gradient` over all calls: high where descent
    makes a weight larger in magnitude, low where it shrinks it. It keeps one array of
    the kernel's size for each kernel. The sums live in this object only: they begin
    anew where it is made anew, as in a run that resumes.

    Unlike in the paper, the sums grow at the moments of pruning only, not at each
    step of the training, and the optimizer trains weights only.

    Example:

    ```python
    movement = Movement()
    movement(np.array([1.0, -1.0]), np.array([0.5, 0.5]))  # [-0.5, 0.5]
    movement(np.array([1.0, -1.0]), np.array([0.5, 0.5]))  # [-1.0, 1.0]
    ```

    Reference: Sanh et al. 2020, "Movement pruning: adaptive sparsity by fine-tuning".
    """

    needs_gradients = True

    def __init__(self):
        self._sums = {}

    def for_kernel(self, kernel: Hashable) -> Callable:
        """Return the criterion that adds to the sums of one kernel."""
        return partial(self, kernel=kernel)

    def __call__(
        self,
        weights: np.ndarray,
        gradients: np.ndarray,
        *,
        kernel: Hashable | None = None,
    ) -> np.ndarray:
        """Add to the sums of a kernel, and return them.

        Args:
            weights: Float array.
            gradients: Float array of the same shape.
            kernel: Key of the kernel that they belong to. Defaults to `None`.

        Returns:
            Float array of the same shape.
        """
        total = self._sums.get(kernel, np.float32(0)) - weights * gradients
        self._sums[kernel] = total
        return total


class Random:
    """Score weights at random.

    Args:
        seed: Integer, or whatever `numpy.random.default_rng` takes. Defaults to `0`.

    Example:

    ```python
    Random(seed=1)(np.ones((2, 3)))  # six numbers in [0, 1)
    ```
    """

    needs_gradients = False

    def __init__(self, seed=0):
        self.seed = seed
        self._rng = np.random.default_rng(seed)

    def __call__(self, weights: np.ndarray, gradients=None) -> np.ndarray:
        """Return numbers in [0, 1), others at each call.

        Args:
            weights: Array, only its shape counts.
            gradients: Ignored.

        Returns:
            Float array of the same shape.
        """
        return self._rng.random(weights.shape, np.float32)


_CRITERIA = {
    "magnitude": lambda seed: magnitude,
    "random": Random,
    "taylor": lambda seed: taylor,
    "movement": lambda seed: Movement(),
}


def as_criterion(criterion, *, seed: int = 0) -> Callable:
    """Return a criterion as a function, made anew where a name is given.

    Args:
        criterion: `"magnitude"`, `"random"`, `"taylor"`, `"movement"` or a function.
        seed: Integer, for `"random"`. Defaults to `0`.

    Raises:
        ValueError: If it is none of these.
    """
    if callable(criterion):
        return criterion
    if criterion not in _CRITERIA:
        raise ValueError(
            f"Expected `criterion` to be one of {tuple(_CRITERIA)} or a function "
            f"`(weights, gradients) -> scores`. Received: criterion={criterion!r}."
        )
    return _CRITERIA[criterion](seed)


def needs_gradients(criterion: Callable) -> bool:
    """Return whether a criterion is to be given gradients."""
    return getattr(criterion, "needs_gradients", False)
