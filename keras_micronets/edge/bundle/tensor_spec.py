"""What a model takes in or puts out."""

import dataclasses
import math
import reprlib
from dataclasses import dataclass

MAX_VALUES = 2**28
DTYPES = ("float16", "float32", "int8", "uint8", "int16", "int32", "int64")


@dataclass(frozen=True)
class TensorSpec:
    """Say what a model takes in or puts out.

    Args:
        shape: Shape without the batch.
        dtype: NumPy dtype name.
        scale: Real value of one integer step; `0.0` for a float tensor.
            Defaults to `0.0`.
        zero_point: Step that stands for zero. Defaults to `0`.

    Raises:
        ValueError: If no tensor of a small classifier is like this.
    """

    shape: tuple[int, ...]
    dtype: str
    scale: float = 0.0
    zero_point: int = 0

    def __post_init__(self):
        whole = len(self.shape) <= 8 and all(0 < n <= MAX_VALUES for n in self.shape)
        if not (
            whole
            and math.prod(self.shape) <= MAX_VALUES
            and self.dtype in DTYPES
            and 0 <= self.scale < math.inf
            and abs(self.zero_point) < 2**31
        ):
            raise ValueError(
                f"Expected at most 8 dimensions, at most {MAX_VALUES:,} values of a "
                f"dtype out of {DTYPES}, a finite scale and a zero point of 32 bits. "
                f"Received: {reprlib.repr(dataclasses.astuple(self))}."
            )
