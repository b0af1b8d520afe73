from collections.abc import Iterator
from itertools import count, islice

import keras
import numpy as np


def batches(
    data, *, batch_size: int = 128, seed: int = 0, start: int = 0
) -> Iterator[tuple]:
    """Yield batches `(x, y, sample_weight)` of some data, round after round.

    What needs gradients beside the training, such as growth, reads its data here.
    The batches depend on the arguments only, so that a run that resumes goes on
    where it was. Nothing is read before it is asked for.

    Args:
        data: A tuple of arrays `(x, y)` or `(x, y, sample_weight)`, each an array
            or a structure of arrays, in batches drawn anew each round; or
            batches as they are: a `keras.utils.PyDataset`, a `tf.data.Dataset`, a
            PyTorch `DataLoader`, any iterable of such tuples.
        batch_size: Integer, samples a batch of a tuple of arrays; of fewer
            samples, all. Defaults to `128`.
        seed: Integer, for the order of a tuple of arrays. Defaults to `0`.
        start: Integer, how many batches to leave out at first. Defaults to `0`.

    Yields:
        Tuples `(x, y, sample_weight)`; `None` where the data have none.

    Raises:
        ValueError: If the data end and cannot be read again, as a generator.

    Example:

    ```python
    for x, y, _ in itertools.islice(batches((x_train, y_train)), 10):
        gradients = keras_micronets.layers.kernel_gradients(model, x, y)
    ```
    """
    if isinstance(data, tuple):
        return _of_arrays(data, batch_size, seed, start)
    if isinstance(data, keras.utils.PyDataset):
        return (_triple(data[index % len(data)]) for index in count(start))
    return map(_triple, islice(_round_and_round(data), start, None))


def _of_arrays(data, batch_size, seed, start):
    n_samples = len(keras.tree.flatten(data)[0])
    batch_size = min(batch_size, n_samples)
    n_batches = n_samples // batch_size
    drawn = None
    for index in count(start):
        epoch, batch = divmod(index, n_batches)
        if drawn != epoch:
            drawn, order = (
                epoch,
                np.random.default_rng((seed, epoch)).permutation(n_samples),
            )
        rows = order[batch * batch_size : (batch + 1) * batch_size]
        yield _triple(_rows_of(data, rows))


def _rows_of(data, rows):
    return keras.tree.map_structure(
        lambda array: None if array is None else np.asarray(array)[rows], data
    )


def _round_and_round(data):
    while True:
        empty = True
        for batch in data:
            empty = False
            yield batch
        if empty:
            raise ValueError(
                "Expected data that can be read again and again, as a tuple of arrays, "
                "a list of batches or a dataset. Received: data that have ended: "
                f"{data!r}."
            )


def _triple(batch):
    if not isinstance(batch, list | tuple):
        return batch, None, None
    x, y, sample_weight = (*batch, None, None)[:3]
    return x, y, sample_weight
