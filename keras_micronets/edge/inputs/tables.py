"""Read windows of sensor readings from rows of comma-separated numbers."""

import csv
import reprlib
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np

from .npy import SkippedSample

__all__ = ["read_lines", "read_rows", "read_table"]

MAX_LINE = 2**20


def read_lines(file: BinaryIO) -> Iterator[str]:
    """Yield the lines of a text file, each as soon as it is complete."""
    for line in iter(lambda: file.readline(MAX_LINE), b""):
        yield line.decode("utf-8", "replace").removeprefix("\ufeff")


def read_table(
    lines: Iterable[str],
    input_shape: tuple[int, ...],
    *,
    hop: int | None = None,
    delimiter: str = ",",
) -> Iterator[np.ndarray | SkippedSample]:
    """Yield the samples of a table, each as soon as its last row is complete.

    Rows are time steps and columns are channels: an input of shape `(steps, channels)`,
    possibly with further dimensions of 1, is a window of `steps` rows. For an input of
    shape `(n,)` the first row decides: with `n` columns each row is a sample; with
    one, `n` rows are a window. A first line without numbers is a header and skipped,
    as are empty lines.

    Args:
        lines: The lines of the table.
        input_shape: Shape of a sample.
        hop: Number of rows between the starts of two windows. Defaults to `None`, the
            rows of a window, so that windows do not overlap.
        delimiter: Character between columns. Defaults to `","`.

    Yields:
        `float32` arrays `(1, *input_shape)`, and a `SkippedSample` in place of a bad
        row and for rows at the end that do not fill a window. No window spans a bad
        row.

    Raises:
        ValueError: If a table cannot hold such samples, or `hop` or `delimiter` is
            invalid.

    Example:

    ```python
    from keras_micronets.edge.inputs import read_lines, read_table

    with open("accelerometer.csv", "rb") as file:
        windows = [*read_table(read_lines(file), (128, 3), hop=64)]
    ```
    """
    steps = _steps_by_width(tuple(input_shape))
    _check_options(hop, delimiter)
    rows = read_rows(lines, set(steps), delimiter=delimiter)
    for item in _windows(rows, steps, hop):
        is_sample = isinstance(item, np.ndarray)
        yield item.reshape(1, *input_shape) if is_sample else item


def read_rows(
    lines: Iterable[str], widths: set[int], *, delimiter: str = ","
) -> Iterator[np.ndarray | SkippedSample]:
    """Yield the rows of a table as `float32` arrays, or a `SkippedSample`.

    The first row decides which of the `widths`, numbers of columns, all rows have.
    """
    is_first = True
    for number, line in enumerate(lines, 1):
        try:
            cells = next(csv.reader([line], delimiter=delimiter), [])
            if not any(map(str.strip, cells)):
                continue
            values, may_be_header = [*map(_number, cells)], is_first
            is_first = False
            if may_be_header and values == [None] * len(values):
                continue
            row = _as_row(values, cells, widths)
        except (ValueError, csv.Error) as error:
            yield SkippedSample(f"line {number}: {error}")
            continue
        widths = {len(row)}
        yield row


def _windows(rows, steps, hop):
    kept: list[Any] = []
    size = n_new = n_skip = 0
    for row in rows:
        if isinstance(row, SkippedSample):
            kept, n_new, n_skip = [], 0, 0
            yield row
        elif n_skip:
            n_skip -= 1
        else:
            kept.append(row)
            n_new += 1
            size = steps[len(row)]
            if len(kept) == size:
                yield np.stack(kept)
                step = hop or size
                kept, n_new, n_skip = kept[step:], 0, max(0, step - size)
    if n_new:
        message = f"{n_new} rows at the end, too few for a window of {size}: skipped."
        yield SkippedSample(message, is_error=False)


def _steps_by_width(shape):
    """Return the number of rows of a sample by the number of columns."""
    sizes = shape if len(shape) < 3 else tuple(n for n in shape if n > 1)
    if len(sizes) == 2:
        return {sizes[1]: sizes[0]}
    if len(sizes) == 1:
        return {1: sizes[0], sizes[0]: 1}
    raise ValueError(
        "Expected a model for tables, with input shape (steps, channels) or "
        f"(features,); use images or .npy files. Received: input shape {shape}."
    )


def _check_options(hop, delimiter):
    if (hop is not None and hop < 1) or len(delimiter) != 1 or delimiter in '\r\n"':
        raise ValueError(
            "Expected a hop of at least one row, and a delimiter of one character. "
            f"Received: hop={hop}, delimiter={delimiter!r}."
        )


def _as_row(values, cells, widths):
    if len(cells) not in widths:
        wanted = " or ".join(map(str, sorted(widths)))
        raise ValueError(f"Expected {wanted} columns. Received: {len(cells)}.")
    with np.errstate(over="ignore"):  # gives infinity, which is rejected
        row = np.array(values, "float32")  # None becomes NaN
    if not np.isfinite(row).all():
        cell = cells[int(np.isfinite(row).argmin())]
        raise ValueError(f"Expected finite numbers. Received: {reprlib.repr(cell)}.")
    return row


def _number(cell):
    try:
        return float(cell)
    except ValueError:
        return None
