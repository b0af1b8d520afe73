from dataclasses import dataclass
from typing import Any

import numpy as np

N_STEPS = 255


@dataclass(frozen=True)
class Constant:
    """A number in a model's graph, or an array of them, in the 8 bits of the file.

    Called without arguments it returns what the device has of them, as a weak
    reference does a tensor, so that it can be a term of a sum.

    Attributes:
        value: `numpy.float32`, or an array of them; not all of them zero.
    """

    value: Any

    def __call__(self):
        return self.integers() * self.scale()

    def scale(self):
        """Return the real value of one integer; zero is always representable."""
        lower, upper = self._bounds()
        return np.float32((upper - lower) / N_STEPS)

    def integers(self):
        """Return the integers that the file holds; zero is 0."""
        least = np.rint(np.float32(self._bounds()[0]) / self.scale())
        return np.clip(np.rint(self.value / self.scale()), least, least + N_STEPS)

    def _bounds(self):
        return np.float64(min(np.min(self.value), 0)), max(np.max(self.value), 0)
