"""Samples out of standard input, each as soon as it is there."""

import io
from collections.abc import Iterator

import numpy as np

from .npy import MAGIC, read_arrays
from .problem import Problem
from .tables import read_lines, read_table


def read_stream(
    file: io.BufferedReader, input_shape: tuple[int, ...], **options
) -> Iterator[np.ndarray | Problem]:
    """Yield the samples of a stream, of arrays or of rows of text.

    Args:
        file: The stream: `.npy` arrays one after the other, or lines as in
            `read_table`. Its first byte tells which, as no text begins like an array.
        input_shape: Shape of a sample.
        **options: As for `read_table`.

    Yields:
        Arrays `(1, *input_shape)`, and a `Problem` in the place of what is bad.

    Raises:
        ValueError: As `read_arrays` and `read_table` do.
    """
    if file.peek(1)[:1] == MAGIC[:1]:
        return read_arrays(file, input_shape)
    return read_table(read_lines(file), input_shape, **options)
