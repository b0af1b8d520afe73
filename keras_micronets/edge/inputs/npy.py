"""Read the samples of `.npy` files, and of streams of arrays."""

import io
import itertools
import math
import os
import struct
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

__all__ = ["Header", "SkippedSample", "read_arrays", "read_header", "read_npy"]


@dataclass(frozen=True)
class SkippedSample:
    """Report input that was skipped.

    The readers yield it among the samples, in place of the missing ones.

    Args:
        message: What was expected and received.
        is_error: Whether it is an error, or only a note. Defaults to `True`.
        n_samples: Number of samples that are missing at this place. Defaults to `0`,
            unknown, as for rows of a table.
    """

    message: str
    is_error: bool = True
    n_samples: int = 0


MAGIC = b"\x93NUMPY"
MAX_HEADER = 10_000
#: Largest number of samples, and of values, in a part of a file.
PIECE_SAMPLES, PIECE_VALUES = 256, 2**20
#: Exceptions that NumPy raises for a damaged header.
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
    """Hold the header of an array of numbers."""

    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype
    version: tuple[int, int] = (1, 0)

    @property
    def n_bytes(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_npy(
    path: str | os.PathLike, input_shape: tuple[int, ...]
) -> Iterator[np.ndarray | SkippedSample]:
    """Yield the samples of a file in parts; the file is mapped, not loaded.

    Args:
        path: Path of a `.npy` file, of samples `(samples, *input_shape)` or of one
            sample `input_shape`.
        input_shape: Shape of a sample.

    Yields:
        Arrays `(samples, *input_shape)`, and a `SkippedSample` for each sample with
        non-finite values.

    Raises:
        ValueError: If the file is not an array of numbers of that shape, or incomplete.
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
        yield from _finite_parts(np.asarray(array[start : start + step]), start)


def read_arrays(
    file: io.BufferedReader, input_shape: tuple[int, ...]
) -> Iterator[np.ndarray | SkippedSample]:
    """Yield the samples of consecutive arrays, each as soon as it is complete.

    Args:
        file: Stream of arrays, as `np.save` writes them.
        input_shape: Shape of a sample.

    Yields:
        Arrays `(1, *input_shape)`, and a `SkippedSample` for a sample with non-finite
        values.

    Raises:
        ValueError: If an array does not contain numbers, has another shape or Fortran
            order, or is incomplete: the start of the next one is then unknown.
    """
    number = 0
    while file.peek(1):
        header = read_header(file)
        count = _count(header.shape, input_shape)
        if header.is_fortran and count * math.prod(input_shape) > 1:
            raise ValueError(
                "Expected arrays in C order; save `np.ascontiguousarray(x)`. "
                "Received: Fortran order."
            )
        size = math.prod(input_shape) * header.dtype.itemsize
        for _ in range(count):
            values = np.frombuffer(_exactly(file, size), header.dtype)
            yield from _finite_parts(values.reshape(1, *input_shape), number)
            number += 1


def read_header(file: io.BufferedIOBase, *, max_bytes: int = MAX_HEADER) -> Header:
    """Read the header of an array, of at most `max_bytes`, up to the first value.

    Raises:
        ValueError: If it is damaged or larger, or the array does not contain real
            numbers.
    """
    start = _exactly(file, 8)
    if start[:6] != MAGIC:
        raise ValueError(f"not an array: it starts with {start!r}")
    length = _exactly(file, 2 if start[6] == 1 else 4)
    size = int.from_bytes(length, "little")
    if size > max_bytes:
        raise ValueError(f"a header of {size:,} bytes, more than {max_bytes:,}")
    parse = np.lib.format.read_array_header_1_0
    if start[6] != 1:
        parse = np.lib.format.read_array_header_2_0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            values = parse(io.BytesIO(length + _exactly(file, size)))
            header = Header(*values, version=(start[6], start[7]))
    except DAMAGE as error:
        raise ValueError(f"a damaged header: {str(error)[:200]}") from None
    is_valid = all(type(n) is int and n >= 0 for n in header.shape)  # `True` is an int
    if header.dtype.kind not in "buif" or not is_valid:
        raise ValueError(f"an array of {header.dtype}, shape {header.shape}")
    return header


def _map(path):
    with open(path, "rb") as file:
        header = read_header(file)
        start, end = file.tell(), os.fstat(file.fileno()).st_size
        if end - start < header.n_bytes:
            raise ValueError(
                f"incomplete: {end - start:,} bytes of {header.n_bytes:,}, for an "
                f"array of shape {header.shape}"
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


def _finite_parts(samples, start):
    """Yield the finite samples in parts; `start` is the number of the first one."""
    is_good = np.isfinite(samples).reshape(len(samples), -1).all(axis=1)
    changes = np.flatnonzero(is_good[1:] != is_good[:-1]) + 1
    for begin, end in itertools.pairwise([0, *changes.tolist(), len(samples)]):
        if is_good[begin]:
            yield samples[begin:end]
            continue
        for number in range(start + begin, start + end):
            yield SkippedSample(
                f"sample {number}: Expected finite numbers. Received: NaN or infinity.",
                n_samples=1,
            )


def _exactly(file, size):
    data = file.read(size)
    if len(data) < size:
        raise ValueError(f"incomplete: {len(data):,} bytes of {size:,}")
    return data
