"""Describe the tensors of models, and handle samples of one input or of several.

Models of several inputs have a dictionary by the inputs' names wherever others have one
value: of shapes, of `TensorSpec`, or of arrays.
"""

import dataclasses
import math
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = [
    "TensorSpec",
    "by_name",
    "check_samples",
    "count_samples",
    "map_inputs",
    "shape_of",
    "take_samples",
    "zero_samples",
]

MAX_VALUES = 2**28
DTYPES = ("float16", "float32", "int8", "uint8", "int16", "int32", "int64")


@dataclass(frozen=True)
class TensorSpec:
    """Describe an input or the output of a model.

    Args:
        shape: Shape without the batch.
        dtype: NumPy dtype name.
        scale: Real value of one integer step. Defaults to `0.0`, for a float tensor.
        zero_point: Integer that represents zero. Defaults to `0`.

    Raises:
        ValueError: If a value is outside the limits for small classifiers.
    """

    shape: tuple[int, ...]
    dtype: str
    scale: float = 0.0
    zero_point: int = 0

    def __post_init__(self) -> None:
        is_small = len(self.shape) <= 8 and all(0 < n <= MAX_VALUES for n in self.shape)
        if not (
            is_small
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

    @property
    def quantization(self) -> tuple[float, int]:
        """Scale and zero point; `(0.0, 0)` for a float tensor."""
        return self.scale, self.zero_point


def map_inputs(function: Callable, first: Any, *others: Any) -> Any:
    """Apply a function to the values of the one input, or to those of each by name."""
    if not isinstance(first, dict):
        return function(first, *others)
    return {n: function(value, *(o[n] for o in others)) for n, value in first.items()}


def shape_of(inputs: TensorSpec | dict[str, TensorSpec]) -> Any:
    """Return the shape of one input, or a dictionary of the shapes of several."""
    return map_inputs(lambda spec: spec.shape, inputs)


def count_samples(x: Any) -> int:
    """Return the number of samples."""
    return len(next(iter(x.values())) if isinstance(x, dict) else x)


def take_samples(x: Any, samples: Any) -> Any:
    """Return some samples, given as a slice or as indices."""
    return map_inputs(lambda array: array[samples], x)


def zero_samples(shapes: Any, count: int) -> Any:
    """Return samples of zeros, for inputs of these shapes."""
    return map_inputs(lambda shape: np.zeros((count, *shape), "float32"), shapes)


def check_samples(x: Any, shapes: Any) -> Any:
    """Return raw inputs as arrays of numbers, if they fit the shapes of the inputs.

    Args:
        x: Array of shape `(samples, *shape)`; for several inputs a dictionary of them,
            or a list or tuple in the order of the inputs.
        shapes: Shape of the input, or a dictionary of shapes.

    Raises:
        ValueError: If they do not fit.
    """
    x = map_inputs(_check_array, by_name(x, shapes), shapes)
    counts = {len(array) for array in x.values()} if isinstance(x, dict) else {0}
    if len(counts) > 1:
        raise ValueError(
            "Expected as many samples of each input. Received: "
            f"{ {name: len(array) for name, array in x.items()} }."
        )
    return x


def by_name(x: Any, inputs: Any) -> Any:
    """Return the values of several inputs in a dictionary, in the order of `inputs`.

    Values of a model of one input are returned as they are.

    Raises:
        ValueError: If there is not one value for each input.
    """
    if not isinstance(inputs, dict):
        return x
    if isinstance(x, Sequence) and len(x) == len(inputs):
        return dict(zip(inputs, x, strict=True))
    if not isinstance(x, dict) or x.keys() != inputs.keys():
        received = (
            [*x] if isinstance(x, dict) else f"a value of type {type(x).__name__}"
        )
        raise ValueError(
            f"Expected a dictionary of arrays with the names {[*inputs]}, or a list of "
            f"{len(inputs)} in this order. Received: {received}."
        )
    return {name: x[name] for name in inputs}


def _check_array(x, shape):
    x = np.asarray(x)
    if x.ndim == 0 or x.shape[1:] != shape or x.dtype.kind not in "buif":
        raise ValueError(
            f"Expected numbers of shape (samples, {', '.join(map(str, shape))}). "
            f"Received: shape {x.shape}, dtype {x.dtype}."
        )
    return x
