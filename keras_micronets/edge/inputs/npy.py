"""Samples out of `.npy` files, and out of a stream of them."""

import io
import math
import os
import struct
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SkippedSample:
    """Say what was left out of an input, while the reading goes on.

    The readers yield it among the samples, in the place of what is missing.

    Args:
        message: What was expected and what came.
        is_error: Whether something was wrong, or it is just to be known.
            Defaults to `True`.
    """

    message: str
    is_error: bool = True


MAGIC = b"\x93NUMPY"
MAX_HEADER = 10_000
#: Samples, and values, that are handed on at a time.
PIECE_SAMPLES, PIECE_VALUES = 256, 2**20
#: What NumPy raises for a damaged header.
DAMAGE = (
    ValueError,
    TypeError,
    KeyError,
    SyntaxError,
    OverflowError,
    RecursionError,
    MemoryError,
    UserWarning,
    struct.error,
    tokenize.TokenError,
)


@dataclass(frozen=True)
class Header:
    """What stands before the values of an array of numbers."""

    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype

    @property
    def n_bytes(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_npy(
    path: str | os.PathLike, input_shape: tuple[int, ...]
) -> Iterator[np.ndarray]:
    """Yield the samples of a file piece by piece; the file is mapped, not loaded.

    Args:
        path: Path of a `.npy` file, of samples `(samples, *input_shape)` or of one
            sample `input_shape`.
        input_shape: Shape of a sample.

    Yields:
        Arrays `(samples, *input_shape)` of at most `PIECE_SAMPLES` samples.

    Raises:
        ValueError: If the file is no array of numbers of that shape, or cut short.
        OSError: If it cannot be read.
    """
    try:
        array = _map(path)
        count = _count(array.shape, input_shape)
    except ValueError as error:
        raise ValueError(
            f"Expected a .npy file of numbers, one array. Received: {path} ({error})."
        ) from None
    array = array.reshape(count, *input_shape)
    step = min(PIECE_SAMPLES, max(1, PIECE_VALUES // math.prod(input_shape)))
    for start in range(0, count, step):
        yield np.asarray(array[start : start + step])


def read_arrays(
    file: io.BufferedReader, input_shape: tuple[int, ...]
) -> Iterator[np.ndarray | SkippedSample]:
    """Yield the samples of arrays that follow one another, each once it is complete.

    Args:
        file: Where the arrays come from, as `np.save` writes them.
        input_shape: Shape of a sample.

    Yields:
        Arrays `(1, *input_shape)`; a `Problem` for a sample with values that are not
        finite.

    Raises:
        ValueError: If an array is none of numbers, of another shape, in Fortran's
            order, or cut short: nobody knows then where the next one begins.
    """
    number = 0
    while file.peek(1):
        header = read_header(file)
        count = _count(header.shape, input_shape)
        if header.is_fortran and count * math.prod(input_shape) > 1:
            raise ValueError(
                "Expected arrays in C's order, whose samples come one after the other; "
                "save `np.ascontiguousarray(x)`. Received: Fortran's order."
            )
        size = math.prod(input_shape) * header.dtype.itemsize
        for _ in range(count):
            values = np.frombuffer(_exactly(file, size), header.dtype)
            yield _finite(values.reshape(1, *input_shape), number)
            number += 1


def read_header(file: io.BufferedIOBase, *, most: int = MAX_HEADER) -> Header:
    """Read the header of an array; the values come next.

    Args:
        file: Where it comes from.
        most: How many bytes it may have. Defaults to `MAX_HEADER`.

    Raises:
        ValueError: If it is none, is longer, or that of an array of anything but real
            numbers.
    """
    begin = _exactly(file, 8)
    if begin[:6] != MAGIC:
        raise ValueError(f"no array: it begins with {begin!r}")
    length = _exactly(file, 2 if begin[6] == 1 else 4)
    size = int.from_bytes(length, "little")
    if size > most:
        raise ValueError(f"a header of {size:,} bytes")
    parse = np.lib.format.read_array_header_1_0
    if begin[6] != 1:
        parse = np.lib.format.read_array_header_2_0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            header = Header(*parse(io.BytesIO(length + _exactly(file, size))))
    except DAMAGE as error:
        raise ValueError(f"a damaged header: {str(error)[:200]}") from None
    whole = all(type(n) is int and n >= 0 for n in header.shape)  # True is an int, too
    if header.dtype.kind not in "buif" or not whole:
        raise ValueError(f"an array of {header.dtype}, shape {header.shape}")
    return header


def _map(path):
    with open(path, "rb") as file:
        header = read_header(file)
        start, end = file.tell(), os.fstat(file.fileno()).st_size
        if end - start < header.n_bytes:
            raise ValueError(
                f"cut short: {end - start:,} bytes of {header.n_bytes:,}, for an array "
                f"of shape {header.shape}"
            )
        if not header.n_bytes:
            return np.empty(header.shape, header.dtype)
        order = "F" if header.is_fortran else "C"
        return np.memmap(file, header.dtype, "r", start, header.shape, order)


def _count(shape, input_shape):
    if shape == input_shape:
        return 1
    if shape[1:] == input_shape and shape:
        return shape[0]
    raise ValueError(
        f"expected shape (samples, {', '.join(map(str, input_shape))}), "
        f"received shape {shape}"
    )


def _finite(sample, number):
    if np.isfinite(sample).all():
        return sample
    return SkippedSample(
        f"Expected finite numbers. Received: NaN or infinity in sample {number} of "
        "the stream."
    )


def _exactly(file, size):
    data = file.read(size)
    if len(data) < size:
        raise ValueError(f"cut short: {len(data):,} bytes of {size:,}")
    return data
