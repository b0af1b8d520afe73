"""Batches of data for computations outside of the training step."""

from collections.abc import Iterator
from itertools import count, islice
from typing import Any

import keras
import numpy as np

__all__ = ["batches"]


def batches(
    data: Any, *, batch_size: int = 128, seed: int = 0, start: int = 0
) -> Iterator[tuple]:
    """Yield batches `(x, y, sample_weight)` of a data set, epoch after epoch.

    Callbacks that need gradients outside of the training step, for growth or
    importance, read their data here. The batches depend on the arguments only, so a
    resumed run continues where it stopped. Data are read when a batch is needed.

    Args:
        data: A tuple `(x, y)` or `(x, y, sample_weight)` of arrays or structures of
            arrays, shuffled each epoch; or batches: a `keras.utils.PyDataset`, a
            `tf.data.Dataset`, a PyTorch `DataLoader` or another iterable of such
            tuples.
        batch_size: Integer, number of samples in a batch of a tuple of arrays, at most
            all of them. Defaults to `128`.
        seed: Integer, for the order of a tuple of arrays. Defaults to `0`.
        start: Integer, number of batches to skip. Defaults to `0`.

    Yields:
        Tuples `(x, y, sample_weight)`; `None` stands for missing entries.

    Raises:
        ValueError: If the data can be read only once, as a generator.

    Example:

    ```python
    kmn.layers.prepare(model)
    x, y, _ = next(kmn.layers.batches((x_train, y_train), batch_size=32))
    gradients = kmn.layers.kernel_gradients(model, x, y)
    ```
    """
    if isinstance(data, tuple):
        return _of_arrays(data, batch_size, seed, start)
    if isinstance(data, keras.utils.PyDataset):
        return (_triple(data[index % len(data)]) for index in count(start))
    return map(_triple, islice(_repeat(data), start, None))


def _of_arrays(data, batch_size, seed, start):
    n_samples = len(keras.tree.flatten(data)[0])
    batch_size = min(batch_size, n_samples)
    n_batches = n_samples // batch_size
    shuffled, order = None, np.arange(n_samples)
    for index in count(start):
        epoch, batch = divmod(index, n_batches)
        if shuffled != epoch:
            shuffled = epoch
            order = np.random.default_rng((seed, epoch)).permutation(n_samples)
        rows = order[batch * batch_size : (batch + 1) * batch_size]
        yield _triple(_rows_of(data, rows))


def _rows_of(data, rows):
    return keras.tree.map_structure(
        lambda array: None if array is None else np.asarray(array)[rows], data
    )


def _repeat(data):
    while True:
        empty = True
        for batch in data:
            empty = False
            yield batch
        if empty:
            raise ValueError(
                "Expected data that can be read repeatedly: a tuple of arrays, a list "
                f"of batches or a data set. Received: {data!r}, now without batches."
            )


def _triple(batch):
    if not isinstance(batch, list | tuple):
        return batch, None, None
    x, y, sample_weight = (*batch, None, None)[:3]
    return x, y, sample_weight
