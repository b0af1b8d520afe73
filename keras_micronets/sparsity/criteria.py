"""How much each weight matters: functions `(weights, gradients) -> scores`.

The lowest scores are removed first. A criterion that needs gradients says so by an
attribute `needs_gradients = True`; others are given `None`. One that remembers, as
`Movement`, has a method `for_kernel(key)` that returns the function for one kernel.
"""

from collections.abc import Callable

import numpy as np

from keras_micronets.sparsity.movement import Movement
from keras_micronets.sparsity.random import Random


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
