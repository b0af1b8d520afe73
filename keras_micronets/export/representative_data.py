"""Read representative data from arrays, dictionaries and batches."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_micronets.export.model_graph import input_names

__all__ = ["read_samples", "reusable"]

MAX_SAMPLES = 1000


def read_samples(
    data: Any, model: keras.Model, shapes: Sequence[tuple] | None = None
) -> list[np.ndarray] | None:
    """Read representative data as one array for each input of a model.

    Args:
        data: As for `export_tflite`. Arrays are read completely; of batches, only the
            first 1,000 samples.
        model: A model whose `inputs` are known.
        shapes: Shape of a sample for each input, `None` for open sizes. Defaults to
            `None`, the shapes of the inputs.

    Returns:
        Array `(samples, ...)` for each input, of the input's dtype; `None` for
        `None`.

    Raises:
        ValueError: If the data are empty, not finite, or do not fit the inputs.
    """
    if data is None:
        return None
    if _is_arrays(data, len(model.inputs)):
        samples = [_array(x) for x in _of_inputs(data, model)]
    else:
        samples = _first_samples(data, model)
    return _checked(samples, model, shapes or list(map(_shape, model.inputs)))


def reusable(data: Any) -> Any:
    """Return representative data that several exports can read.

    Args:
        data: As for `export_tflite`.

    Returns:
        The data unchanged, or, for an iterator (which can be read only once), a list of
        its first 1,000 elements.
    """
    is_iterator = isinstance(data, Iterator)
    return list(itertools.islice(data, MAX_SAMPLES)) if is_iterator else data


def _is_arrays(data, n_inputs):
    """Return whether data are arrays of all samples, and not batches."""
    if isinstance(data, list):
        return len(data) == n_inputs > 1 and all(map(_is_array, data))
    return _is_array(data) or isinstance(data, tuple | dict)


def _is_array(value):
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _first_samples(data, model):
    try:
        if isinstance(data, keras.utils.PyDataset):
            elements = (data[index] for index in _indices(data))
        else:
            elements = iter(data)
    except TypeError:
        raise ValueError(
            "Expected representative data as an array, a tuple or dictionary of "
            f"arrays, or an iterable of batches. Received: {data!r}."
        ) from None
    rows, n_samples = [], 0
    for element in elements:
        rows.append([_rows(x, t) for x, t in _pairs(element, model)])
        n_samples += len(rows[-1][0])
        if n_samples >= MAX_SAMPLES:
            break
    if not rows:
        return [np.empty((0, *_shape(tensor))) for tensor in model.inputs]
    columns = list(zip(*rows, strict=True))
    sizes = [{x.shape[1:] for x in parts} for parts in columns]
    if any(len(shapes) > 1 for shapes in sizes):
        raise ValueError(
            "Expected representative samples of one size. Received: shapes "
            f"{sizes}. Resize or crop them to the size on the device."
        )
    return [np.concatenate(parts)[:MAX_SAMPLES] for parts in columns]


def _indices(dataset):
    n_batches = dataset.num_batches
    return itertools.count() if n_batches is None else range(n_batches)


def _pairs(element, model):
    return zip(_of_inputs(element, model), model.inputs, strict=True)


def _rows(x, tensor):
    """Add the batch axis to a sample without one."""
    x = _array(x)
    return x[None] if x.ndim == len(tensor.shape) - 1 else x


def _of_inputs(element, model):
    """Return the arrays for the inputs from one batch, pair, tuple or dictionary."""
    names = input_names(model)
    if _is_pair(element, len(names)):
        return _of_inputs(element[0], model)
    if isinstance(element, dict):
        element = [element[name] for name in names if name in element]
    arrays = keras.tree.flatten(element)
    if len(arrays) != len(names):
        raise ValueError(
            f"Expected representative data for {len(names)} inputs: in the order "
            f"{names}, or in a dictionary with these names. Received: "
            f"{len(arrays)} matching arrays."
        )
    return arrays


def _is_pair(element, n_inputs):
    """Return whether an element is `(x, y)` or `(x,)`, and not bare inputs."""
    if not isinstance(element, tuple | list) or len(element) == 0:
        return False
    return isinstance(element[0], dict) or _n_arrays(element[0]) == n_inputs


def _n_arrays(value):
    return len(keras.tree.flatten(value))


def _array(value):
    return np.asarray(keras.ops.convert_to_numpy(value))


def _shape(tensor):
    return tuple(tensor.shape[1:])


def _checked(samples, model, shapes):
    for x, shape in zip(samples, shapes, strict=True):
        _check_shape(x, shape)
    if len({len(x) for x in samples}) != 1:
        raise ValueError(
            "Expected the same number of samples for each input. Received: "
            f"{[len(x) for x in samples]} for {input_names(model)}."
        )
    samples = [x.astype(t.dtype) for x, t in zip(samples, model.inputs, strict=True)]
    if not all(np.isfinite(x).all() for x in samples):
        raise ValueError(
            "Expected finite representative data. Received: an array with NaN or "
            "infinity in it."
        )
    return samples


def _check_shape(x, expected):
    fits = x.ndim == len(expected) + 1 and len(x) > 0
    if not fits or any(
        size not in (None, got) for size, got in zip(expected, x.shape[1:], strict=True)
    ):
        raise ValueError(
            f"Expected representative data of shape "
            f"({', '.join(map(str, ('samples', *expected)))}). "
            f"Received: shape {x.shape}."
        )
