"""Test with random values whether an operation keeps its input channels apart.

An operation may read a channel by its place: the first one, the middle, a half. So it
is run on several subsets, each place missing in one, and on a permutation. A layer that
reads its number of channels when it is built is built again for each subset, as for a
cut model.
"""

from typing import Any

import keras
import numpy as np

from keras_micronets.channels.graph.node import TracedTensor, describe_operation
from keras_micronets.layers.copies import copy_of
from keras_micronets.layers.litert.capabilities import plain_class

__all__ = ["probe"]

MAGNITUDES = (0.1, 1.0, 30.0)
UNKNOWN_LENGTH, BATCH = 8, 2


def probe(tracer: Any, call: Any, tensors: list[TracedTensor]) -> list[TracedTensor]:
    """Return the traced outputs of an operation without weights.

    An operation passes channels on if each subset of its input channels gives the same
    subset of its output channels, for random values of several magnitudes. Activations,
    arithmetic, pooling, padding and dropout do, custom ones too. An operation that does
    not, such as a softmax over channels, protects its input channels.

    Args:
        tracer: The `Tracer`.
        call: The call of the operation, from `_keras_private.graph_calls`.
        tensors: Its traced inputs.
    """
    channels = [{} for _ in call.outputs]
    for offset in sorted({axis - len(t.shape) for t in tensors for axis in t.channels}):
        _probe_axis(tracer, call, tensors, offset, channels)
    outputs = zip(call.outputs, channels, strict=True)
    return [TracedTensor(output.shape, by_axis) for output, by_axis in outputs]


def _probe_axis(tracer, call, tensors, offset, channels_out):
    """Pass on the channels of one axis of all inputs, counted from the last."""
    axes = [(tensor, offset + len(tensor.shape)) for tensor in tensors]
    length = max(tensor.shape[a] for tensor, a in axes if a in tensor.channels)
    axis_of = {}
    for index, (tensor, axis) in enumerate(axes):
        if axis > 0 and tensor.shape[axis] == length:
            axis_of[index] = axis
        elif axis in tensor.channels:
            reason = f"{call.operation.name} repeats them"
            tracer.ties.protect(tensor.channels[axis], reason)
    axes_out = _output_axes(call, axis_of, offset, length)
    channels = [
        tracer.channels(tensors[index], axis) for index, axis in axis_of.items()
    ]
    if axes_out is None:
        reason = f"{describe_operation(call.operation)} mixes them"
        for numbers in channels:
            tracer.ties.protect(numbers, reason)
        return
    for numbers in channels[1:]:
        tracer.ties.tie(channels[0], numbers)
    for axis, by_axis in zip(axes_out, channels_out, strict=True):
        by_axis[axis] = channels[0]


def _output_axes(call, axis_of, offset, length):
    """Return the axis of each output that has the channels, or `None`.

    `axis_of` maps the index of an input to its axis with `length` channels.
    """
    candidates = [_candidates(tensor.shape, offset, length) for tensor in call.outputs]
    if length == 1 or not all(candidates):
        return None
    rng = np.random.default_rng(0)
    flat = keras.tree.flatten((call.args, call.kwargs))
    inputs = [x for x in flat if isinstance(x, keras.KerasTensor)]
    subsets = _subsets(length, rng)
    samples = [[_random_values(x, size, rng) for x in inputs] for size in MAGNITUDES]
    try:
        copies = [_rebuilt(call.operation) for _ in subsets]
        for whole in samples:
            expected = _run(call, call.operation, whole)
            for kept, copy in zip(subsets, copies, strict=True):
                received = _run(call, copy, _take(whole, kept, axis_of))
                candidates = [
                    [axis for axis in axes if _equal(np.take(e, kept, axis), r)]
                    for axes, e, r in zip(candidates, expected, received, strict=True)
                ]
                if not all(candidates):
                    return None
    except Exception:  # custom code and backends raise errors of any class
        return None
    return [axes[0] for axes in candidates]


def _subsets(length, rng):
    """Return arrays of channels, each place missing in one, and a permutation."""
    everything, mixed = np.arange(length), rng.permutation(length)
    half, rest = np.sort(mixed[: length // 2]), np.sort(mixed[length // 2 :])
    first, last = everything[:1], everything[-1:]
    return [half, rest, everything[1:], everything[:-1], first, last, mixed]


def _take(arrays, kept, axis_of):
    return [
        np.take(values, kept, axis_of[index]) if index in axis_of else values
        for index, values in enumerate(arrays)
    ]


def _rebuilt(operation):
    """Return a new copy of a layer, unless it is Keras's and reads no width."""
    is_layer = isinstance(operation, keras.Layer)
    if not is_layer or plain_class(operation).__module__.startswith("keras."):
        return operation
    return copy_of(operation)


def _candidates(shape, offset, length):
    """Return the axes of the right length, the one at the inputs' offset first."""
    axes = [axis for axis in range(1, len(shape)) if shape[axis] == length]
    return sorted(axes, key=lambda axis: axis != offset + len(shape))


def _random_values(tensor, magnitude, rng):
    shape = [BATCH, *(length or UNKNOWN_LENGTH for length in tensor.shape[1:])]
    return (rng.normal(0, 1, shape) * magnitude).astype(tensor.dtype)


def _run(call, operation, values):
    values = iter(values)

    def value(x):
        x = next(values) if isinstance(x, keras.KerasTensor) else x
        return keras.ops.convert_to_tensor(x) if isinstance(x, np.ndarray) else x

    args, kwargs = keras.tree.map_structure(value, (call.args, call.kwargs))
    outputs = keras.tree.flatten(operation(*args, **kwargs))
    return [keras.ops.convert_to_numpy(output) for output in outputs]


def _equal(first, second):
    return first.shape == second.shape and np.allclose(
        first, second, rtol=1e-5, atol=1e-6, equal_nan=True
    )
