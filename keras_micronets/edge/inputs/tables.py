"""Windows of sensor readings out of rows of comma-separated numbers."""

import csv
import reprlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np

from .npy import SkippedSample

MAX_LINE = 2**20


def read_lines(file: BinaryIO) -> Iterator[str]:
    """Yield the lines of a file of text, each as soon as it is there."""
    for line in iter(lambda: file.readline(MAX_LINE), b""):
        yield line.decode("utf-8", "replace").removeprefix("\ufeff")


def read_table(
    lines: Iterable[str],
    input_shape: tuple[int, ...],
    *,
    hop: int | None = None,
    delimiter: str = ",",
) -> Iterator[np.ndarray | SkippedSample]:
    """Yield the samples of a table, each as soon as its last row is there.

    Rows are time steps and columns channels: an input of shape `(steps, channels)`,
    possibly with further sizes of 1, is a window of `steps` rows. For an input of
    shape `(n,)` the first row decides: with `n` columns each row is a sample; with
    one, `n` rows are a window. A first line without any number is a header, and left
    out; so are empty lines.

    Args:
        lines: The lines of the table.
        input_shape: Shape of a sample.
        hop: Rows from the start of a window to that of the next. Defaults to `None`,
            the rows of a window: no overlap.
        delimiter: Character between columns. Defaults to `","`.

    Yields:
        `float32` arrays `(1, *input_shape)`. A `Problem` in the place of a bad row,
        after which the next window begins anew, for none may span a gap; and one, no
        error, for a rest of rows at the end too few for a window.

    Raises:
        ValueError: If no table holds such samples, or `hop` or `delimiter` is none.

    Example:

    ```python
    with open("accelerometer.csv", "rb") as file:
        for window in read_table(read_lines(file), (128, 3), hop=64): ...
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
    """Yield the rows of a table as `float32` arrays, and a `Problem` for a bad one.

    Args:
        lines: The lines of the table.
        widths: Numbers of columns that it may have; the first row decides.
        delimiter: Character between columns. Defaults to `","`.
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
    kept, fresh, skipped = [], 0, 0
    for row in rows:
        if isinstance(row, SkippedSample):
            kept, fresh, skipped = [], 0, 0
            yield row
        elif skipped:
            skipped -= 1
        else:
            kept.append(row)
            fresh += 1
            size = steps[len(row)]
            if len(kept) == size:
                yield np.stack(kept)
                step = hop or size
                kept, fresh, skipped = kept[step:], 0, max(0, step - size)
    if fresh:
        message = f"{fresh} rows at the end, too few for a window of {size}: left out."
        yield SkippedSample(message, is_error=False)


def _steps_by_width(shape):
    """Return how many rows a sample has, by the number of columns."""
    sizes = shape if len(shape) < 3 else tuple(n for n in shape if n > 1)
    if len(sizes) == 2:
        return {sizes[1]: sizes[0]}
    if len(sizes) == 1:
        return {1: sizes[0], sizes[0]: 1}
    raise ValueError(
        "Expected a model of sensor windows, of input shape (steps, channels) or "
        f"(features,), to read a table for. Received: input shape {shape}; it takes "
        "images or .npy files."
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
    with np.errstate(over="ignore"):  # infinity, which is refused
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
