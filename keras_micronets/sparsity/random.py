import numpy as np


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
