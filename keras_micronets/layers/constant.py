from dataclasses import dataclass

import numpy as np

LARGEST = 255  # the converter puts zero at one end of the 8 bits


@dataclass(frozen=True)
class Constant:
    """A number in a model's graph, as the device has it: 8 bits and a scale.

    Called without arguments it returns the number, as a weak reference does a tensor,
    so that it can be a term of a sum.

    Args:
        value: Number other than zero.
    """

    value: float

    def __call__(self):
        return self.value

    def scale(self):
        """Return the real value of one integer, a `numpy.float32`."""
        magnitude = abs(np.float64(np.float32(self.value)))
        return np.float32(magnitude / LARGEST)

    def inverse(self):
        """Return the constant by which the device multiplies instead of dividing."""
        return Constant(float(np.float32(1) / np.float32(self.value)))
