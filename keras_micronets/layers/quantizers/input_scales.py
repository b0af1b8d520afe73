"""Warn of inputs whose values integers of one scale cannot tell apart."""

import warnings

import keras
import numpy as np
from keras import ops

from keras_micronets import _keras_private
from keras_micronets.layers.graph import unroll
from keras_micronets.layers.quantizers.activation import SMALLEST_RANGE

__all__ = ["warn_of_samples", "warn_of_tiny_inputs"]

N_STEPS = {"int8": 2**8 - 1, "int16": 2**16 - 1}
# The smallest step that TensorFlow's converter measures (2.21).
SMALLEST_MEASURED_STEP = 8.2e-9
LOST_SHARE = 0.99
_ADVICE = (
    "Normalise the data before the model, in training and on the device, each feature "
    "to mean 0 and standard deviation 1 for example."
)


def warn_of_tiny_inputs(model: keras.Model) -> None:
    """Warn of inputs whose range is less than the smallest of a quantiser.

    Args:
        model: A model whose quantisers have seen data. One without a graph is skipped.
    """
    if not _keras_private.is_functional(model):
        return
    calls = [call for call in unroll(model) if call.is_input]
    for reader, position in ((r, i) for call in calls for r, i, _ in call.readers):
        quantizer = reader.quantizer(f"input_{position}")
        if quantizer is not None and quantizer.learns:
            lower, upper = map(ops.convert_to_numpy, quantizer.own_bounds())
            if upper > lower and upper - lower <= SMALLEST_RANGE * 1.001:
                _warn_of_tiny([reader.operation.name], "", SMALLEST_RANGE)


def warn_of_samples(
    model: keras.Model, samples: list[np.ndarray], quantization: str, *, learned: bool
) -> None:
    """Warn of representative data that lose what they say when they are rounded.

    The whole range is too small, or the values of one feature (of the last axis) lie
    within half a step. Features that are constant, and zeros, do not count.

    Args:
        model: A functional or sequential model.
        samples: Array `(samples, ...)` for each input.
        quantization: `"int8"` or `"int16"`.
        learned: Whether the file has the ranges of quantisers.
    """
    n_steps = N_STEPS[quantization]
    smallest = SMALLEST_RANGE if learned else SMALLEST_MEASURED_STEP * n_steps
    for tensor, x in zip(model.inputs, samples, strict=True):
        if not np.issubdtype(x.dtype, np.floating):
            continue
        width = float(max(x.max(), 0)) - float(min(x.min(), 0))
        if 0 < width < smallest:
            span = f" with a range of {width:.2g}"
            _warn_of_tiny(_readers(model, tensor), span, smallest)
        elif lost := _lost_features(x, width / n_steps):
            warnings.warn(
                f"Features {lost[:5]} of the input of {_readers(model, tensor)} lie "
                f"within half of one step of the integers that hold all {x.shape[-1]}: "
                f"they become zero in the file. {_ADVICE}",
                stacklevel=4,
            )


def _warn_of_tiny(names, span, smallest):
    warnings.warn(
        f"The input of {names}{span} uses a part of the integers only: the smallest "
        f"range that they can have is {smallest:.2g}. {_ADVICE}",
        stacklevel=5,
    )


def _readers(model, tensor):
    source, _ = _keras_private.producer(tensor)
    edges = _keras_private.edges(model)
    return [reader.name for producer, reader, _ in edges if producer is source]


def _lost_features(x, step):
    """Return the indices of features that nearly always round to zero."""
    columns = np.abs(x.reshape(-1, x.shape[-1]).astype("float64"))
    varies = columns.max(axis=0) > columns.min(axis=0)
    small = np.sum((columns > 0) & (columns < step / 2), axis=0)
    is_lost = small >= LOST_SHARE * np.maximum(np.sum(columns > 0, axis=0), 1)
    return np.flatnonzero(varies & is_lost).tolist()
