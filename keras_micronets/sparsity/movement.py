from collections.abc import Callable, Hashable
from functools import partial

import numpy as np


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
