"""Read data as `fit` takes them: arrays, several inputs, frames and streams."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

__all__ = [
    "as_inputs",
    "chunks",
    "count_samples",
    "hash_arrays",
    "is_for_keras",
    "is_stream",
    "join_inputs",
    "row_reader",
]

#: Bytes of inputs of a stream that are predicted at once.
CHUNK_BYTES = 2**25


def as_inputs(x: Any) -> Any:
    """Return the inputs of Keras models as arrays.

    Args:
        x: An array or what NumPy turns into one; for models of several inputs a
            dictionary, tuple or list of arrays.
    """
    is_one = _several(x) is None
    arrays = np.asarray(x) if is_one else keras.tree.map_structure(np.asarray, x)
    count_samples(arrays)
    return arrays


def count_samples(x: Any) -> int:
    """Return the number of samples of an array, frame or list, or of several.

    Raises:
        ValueError: If there are none, or the arrays differ in their length.
    """
    shapes = _shapes(x)
    if not shapes or () in shapes or len({shape[0] for shape in shapes}) != 1:
        raise ValueError(
            "Expected an array of samples, or one per input, all of one length. "
            f"Received: shapes {shapes}."
        )
    return shapes[0][0]


def _shapes(x: Any) -> list[tuple[int, ...]]:
    if (parts := _several(x)) is not None:
        return [shape for one in parts for shape in _shapes(one)]
    if hasattr(x, "shape"):
        return [tuple(x.shape)]
    return [(len(x),) if isinstance(x, list | tuple) else ()]  # of texts, perhaps


def _several(x):
    """Return the inputs as a list if there are several, in any form, or `None`."""
    if isinstance(x, dict):
        return [*x.values()]
    is_list = isinstance(x, list | tuple) and any(hasattr(one, "shape") for one in x)
    return [*x] if is_list else None


def is_for_keras(x: Any) -> bool:
    """Whether Keras takes data in their form: streams, or arrays of numbers.

    Frames, series, sparse matrices, lists and arrays of texts or objects are others.
    """
    if is_stream(x):
        return True
    if (parts := _several(x)) is not None:
        return all(map(is_for_keras, parts))
    if isinstance(x, np.ndarray):
        return x.dtype.kind in "biufc"
    others = ("columns", "iloc", "tocsr")
    return hasattr(x, "dtype") and not any(hasattr(x, name) for name in others)


def row_reader(x: Any) -> Callable[[slice], Any]:
    """Return a function from a slice to these samples of data, in their form.

    Args:
        x: A frame, a sparse matrix, an array, a list, or a dictionary, list or tuple of
            them. Sparse matrices are read in the CSR format.
    """
    if (parts := _several(x)) is not None:
        readers, form = [*map(row_reader, parts)], type(x)
        if isinstance(x, dict):
            return lambda rows: {k: f(rows) for k, f in zip(x, readers, strict=True)}
        return lambda rows: form(read(rows) for read in readers)
    if hasattr(x, "tocsr"):
        x = x.tocsr()
    return getattr(x, "iloc", x).__getitem__


def join_inputs(parts: Sequence[Any]) -> Any:
    """Return the samples of several parts together, of one input or of several."""
    return keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *parts)


def hash_arrays(x: Any) -> str:
    """Return the SHA-256 of an array, or of several with their names."""
    digest = hashlib.sha256()
    for path, array in keras.tree.flatten_with_path(x):
        digest.update(f"{path or ''}{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def is_stream(x: Any) -> bool:
    """Whether data come in batches: a dataset, a data loader or a generator."""
    if isinstance(x, keras.utils.PyDataset) or hasattr(x, "as_numpy_iterator"):
        return True
    is_loader = hasattr(x, "dataset") and hasattr(x, "batch_size")
    return is_loader or (hasattr(x, "__next__") and hasattr(x, "__iter__"))


def chunks(stream: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Iterate over a stream once, and yield inputs, targets and sample weights.

    Batches are joined to chunks of about 32 MiB, so that a learner's weights are loaded
    a few times only. A chunk is not kept while the next one is read: the caller should
    not keep it either. Targets and weights are `None` where the stream has none.

    Args:
        stream: A `tf.data.Dataset`, `keras.utils.PyDataset`, PyTorch `DataLoader` or
            generator of batches `x`, `(x, y)` or `(x, y, sample_weight)`.
    """
    batches, n_bytes = [], 0
    for batch in _batches(stream):
        x, y, weight = keras.utils.unpack_x_y_sample_weight(batch)
        part = keras.tree.map_structure(_to_numpy, (x, y, weight), none_is_leaf=False)
        batches.append(part)
        n_bytes += sum(array.nbytes for array in keras.tree.flatten(part[0]))
        del batch, x, y, weight, part
        if n_bytes >= CHUNK_BYTES:
            batches, n_bytes = [_joined(batches)], 0
            yield batches.pop()
    if batches:
        batches = [_joined(batches)]
        yield batches.pop()


def _batches(stream):
    if isinstance(stream, keras.utils.PyDataset):
        if stream.num_batches is None:
            raise ValueError(
                "Expected a PyDataset with a length. Received: an infinite one."
            )
        return (stream[i] for i in range(stream.num_batches))
    if hasattr(stream, "as_numpy_iterator"):
        if getattr(stream, "cardinality", lambda: 0)() == -1:
            raise ValueError(
                "Expected a dataset that ends. Received: an infinite one. Use `take`."
            )
        return stream.as_numpy_iterator()
    # PyTorch's loaders yield lists, which Keras would take for several inputs.
    return (tuple(b) if isinstance(b, list) else b for b in stream)


def _to_numpy(value):
    return value if isinstance(value, np.ndarray) else np.asarray(value)


def _joined(batches):
    xs, ys, weights = zip(*batches, strict=True)
    return join_inputs(xs), _join(ys), _join(weights)


def _join(parts):
    return None if parts[0] is None else np.concatenate(parts)
