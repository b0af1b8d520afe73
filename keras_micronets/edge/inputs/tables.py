"""Read windows of sensor readings from the rows of a table."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from .npy import SkippedSample
from .rows import TableFormat, TimedArray, read_rows

__all__ = ["read_table"]


def read_table(
    lines: Iterable[str],
    input_shape: tuple[int, ...],
    *,
    table_format: TableFormat | None = None,
    hop: int | None = None,
) -> Iterator[np.ndarray | TimedArray | SkippedSample]:
    """Yield the samples of a table, each as soon as its last row is complete.

    Rows are time steps and columns are channels: an input of shape `(steps, channels)`,
    possibly with further dimensions of 1, is a window of `steps` rows. For an input of
    shape `(n,)` the first row decides: with `n` columns each row is a sample; with
    one, `n` rows are a window. Lines before the first row that are no numbers, such as
    names and units, are skipped, as are empty lines and comments.

    Args:
        lines: The lines of the table.
        input_shape: Shape of a sample.
        table_format: How the table is written, and the columns to read. Defaults to
            `None`, a `TableFormat()`.
        hop: Number of rows between the starts of two windows. Defaults to `None`, the
            rows of a window, so that windows do not overlap.

    Yields:
        `float32` arrays `(1, *input_shape)`, each in a `TimedArray` if the format has
        a column of time stamps; and a `SkippedSample` in place of a bad row and for
        rows at the end that do not fill a window. No window spans a bad row.

    Raises:
        ValueError: If a table cannot hold such samples, has no rows or not the columns
            of the format, or `hop` is invalid.

    Example:

    ```python
    from keras_micronets.edge.inputs import read_lines, read_table

    with open("accelerometer.csv", "rb") as file:
        windows = [*read_table(read_lines(file), (128, 3), hop=64)]
    ```
    """
    steps = _steps_by_width(tuple(input_shape))
    if hop is not None and hop < 1:
        raise ValueError(f"Expected a hop of at least one row. Received: hop={hop}.")
    rows = read_rows(lines, set(steps), table_format or TableFormat())
    for item in _windows(rows, steps, hop):
        if isinstance(item, SkippedSample):
            yield item
            continue
        x = np.stack([row.values for row in item]).reshape(1, *input_shape)
        yield x if item[-1].time is None else TimedArray(x, item[-1].time)


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
            size = steps[len(row.values)]
            if len(kept) == size:
                yield kept
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
