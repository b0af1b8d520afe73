"""Channel rules of operations that move, slice, join, repeat or drop channels.

A slice or a split of channels keeps, in a cut model, what is left between the same two
channels. So its bounds are settings: each is the number of channels kept before it.
"""

from math import prod

import numpy as np
from keras import layers

from keras_micronets import _keras_private
from keras_micronets.channels.graph.rules import call_rule_for, rule_for

__all__: list[str] = []


def _classes(*names):
    return _keras_private.operation_classes(*names).values()


@rule_for(layers.Concatenate, *_classes("Concatenate"))
def _concatenate(tracer, operation, shape, *tensors):
    joined_axis = operation.axis % len(shape)
    out = {}
    for axis in set().union(*(tensor.channels for tensor in tensors)):
        channels = [tracer.channels(tensor, axis) for tensor in tensors]
        if axis == joined_axis:
            out[axis] = np.concatenate(channels)
            continue
        out[axis] = channels[0]
        for other in channels[1:]:
            tracer.ties.tie(channels[0], other)
    return out


@rule_for(layers.Flatten, layers.Reshape, *_classes("Reshape", "Ravel"))
def _reshape(tracer, layer, shape, tensor):
    """One channel may become a run of indices, or part of one of several axes."""
    if not tensor.channels:
        return {}
    numbers = _reshaped_numbers(layer, tensor, shape)
    if numbers is None:
        tracer.protect(tensor, f"{layer.name} mixes their axis with others")
        return {}
    axes = range(numbers.ndim)
    varying = [a for a in axes if (numbers != np.take(numbers, [0], a)).any()]
    axis = varying[-1] if varying else numbers.ndim - 1
    runs = np.moveaxis(numbers, axis, -1).reshape(-1, numbers.shape[axis])
    if len(varying) > 1:  # of an image, all positions lose the same channels
        tracer.ties.tie(runs, np.broadcast_to(runs[0], runs.shape))
    axis, channels = axis + 1, runs[0]
    for name, before in (("target_shape", 1), ("newshape", 0)):  # axes that it lacks
        lengths = getattr(layer, name, None)
        if lengths is not None and lengths[axis - before] != -1:
            tracer.bind(layer, None, axis, channels, (name, axis - before))
    return {axis: channels}


def _reshaped_numbers(layer, tensor, shape):
    """Return the channel of each element after a reshape; `None` if unknown."""
    sizes = tensor.shape[1:]
    is_known = None not in (*sizes, *shape[1:]) and len(tensor.channels) == 1
    if not is_known or prod(sizes) != prod(shape[1:]):  # the batch may be merged
        return None
    ((axis, channels),) = tensor.channels.items()
    broadcast_shape = [1] * len(sizes)
    broadcast_shape[axis - 1] = -1
    numbers = np.broadcast_to(channels.reshape(broadcast_shape), sizes)
    if getattr(layer, "data_format", None) == "channels_first":
        numbers = np.moveaxis(numbers, 0, -1)  # as Flatten does
    return numbers.reshape(shape[1:])


@call_rule_for(*_classes("GetItem"))
def _get_item(tracer, operation, call, x, key):
    entries, axes = _entries(key, len(x.shape)), iter(range(len(x.shape)))
    if not all(entry is None or isinstance(entry, int | slice) for _, entry in entries):
        return None
    of_axes = [None if e is None else x.channels.get(next(axes)) for _, e in entries]
    traced = [(*pair, c) for pair, c in zip(entries, of_axes, strict=True)]
    for _, entry, channels in traced:
        if channels is not None and getattr(entry, "step", 0) not in (None, 1):
            return None
    left = enumerate(one for one in traced if not isinstance(one[1], int))
    sliced = {axis: one for axis, one in left if one[2] is not None}
    return [{axis: _slice(tracer, operation, *one) for axis, one in sliced.items()}]


def _entries(key, rank):
    """Return the paths and entries of a slice, one for each axis of the tensor."""
    if not isinstance(key, tuple | list):
        return [((), key), *[((), slice(None))] * (rank - (key is not None))]
    entries = [((index,), entry) for index, entry in enumerate(key)]
    n_axes = sum(entry is not None and entry is not ... for entry in key)
    at = next((i for i, entry in enumerate(key) if entry is ...), len(entries))
    entries[at : at + 1] = [((), slice(None))] * (rank - n_axes)
    return entries


def _slice(tracer, operation, path, entry, channels):
    """Return the channels of a slice, and let its bounds be settings."""
    if entry == slice(None):
        return channels
    start, stop, _ = entry.indices(len(channels))
    for name, bound in (("start", start), ("stop", stop)):
        _bind_bound(tracer, operation, channels, bound, ("key", (*path, name)))
    return channels[start:stop]


def _bind_bound(tracer, operation, channels, bound, setting):
    """Let a setting be the number of channels that are kept before a bound."""
    if bound:
        tracer.bind(operation, None, 0, channels[:bound], setting)


@call_rule_for(*_classes("Split"))
def _split(tracer, operation, call, x):
    axis, sections = operation.axis % len(x.shape), operation.indices_or_sections
    channels = x.channels.get(axis)
    if channels is None:
        return None
    if isinstance(sections, int):
        sections = range(0, len(channels), len(channels) // sections)[1:]
    bounds = [slice(bound).indices(len(channels))[1] for bound in sections]
    if bounds != sorted(bounds):
        return None
    for index, bound in enumerate(bounds):
        setting = ("indices_or_sections", index)
        _bind_bound(tracer, operation, channels, bound, setting)
    return [x.channels | {axis: part} for part in np.split(channels, bounds)]


@call_rule_for(*_classes("Pad"))
def _pad(tracer, operation, call, x, constant_values=None):
    widths = operation.pad_width
    if operation.mode != "constant" or len(widths) != len(x.shape):
        return None
    if not isinstance(constant_values, int | float | None):
        return None
    out = {}
    for axis, channels in x.channels.items():
        around = [tracer.ties.new(width) for width in widths[axis]]
        for side, new in enumerate(around):
            setting = ("pad_width", (axis, side))
            _bind_bound(tracer, operation, new, len(new), setting)
        out[axis] = np.concatenate([around[0], channels, around[1]])
    return [out]


@rule_for(*_classes("Tile"))
def _tile(tracer, operation, shape, x):
    repeats = np.atleast_1d(operation.repeats).tolist()
    if len(repeats) > len(x.shape):
        return None
    repeats = [1] * (len(x.shape) - len(repeats)) + repeats
    return {axis: np.tile(c, repeats[axis]) for axis, c in x.channels.items()}


@rule_for(*_classes("Repeat"))
def _repeat(tracer, operation, shape, x):
    if operation.axis is None or not isinstance(operation.repeats, int):
        return None
    axis = operation.axis % len(shape)
    repeated = {a: np.repeat(c, operation.repeats) for a, c in x.channels.items()}
    return x.channels | {a: c for a, c in repeated.items() if a == axis}


@rule_for(*_classes("Flip"))
def _flip(tracer, operation, shape, x):
    axes = range(len(shape)) if operation.axis is None else operation.axis
    axes = [axis % len(shape) for axis in np.atleast_1d(axes)]
    return {axis: c[::-1] if axis in axes else c for axis, c in x.channels.items()}


@rule_for(*_classes("Mean", "Max", "Min", "Sum", "Amax", "Amin"))
def _reduce(tracer, operation, shape, x):
    """A mean or maximum over channels is that of the channels that are kept."""
    if operation.axis is None:
        return None
    reduced = [axis % len(x.shape) for axis in np.atleast_1d(operation.axis)]
    for axis in set(reduced) & set(x.channels):
        tracer.bind(operation, None, axis, x.channels[axis], role="averages")
    left = {axis: c for axis, c in x.channels.items() if axis not in reduced}
    if operation.keepdims:
        return left
    return {axis - sum(r < axis for r in reduced): c for axis, c in left.items()}


@rule_for(
    *(layers.Dropout, layers.AlphaDropout, layers.GaussianDropout),
    *(layers.GaussianNoise, layers.SpatialDropout1D, layers.SpatialDropout2D),
    layers.SpatialDropout3D,
)
def _noise(tracer, layer, shape, x):
    """These may act in inference too, where their results are random."""
    return None if getattr(layer, "noise_shape", None) else x.channels


@rule_for(layers.Masking)
def _masking(tracer, layer, shape, x):
    """Whether a step is masked depends on all of its channels."""
    tracer.protect(x, f"{layer.name} compares them")
    return {}
