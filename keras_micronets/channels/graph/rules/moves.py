"""How channels are joined, and moved to other axes."""

import numpy as np
from keras import layers

from keras_micronets import _keras_private
from keras_micronets.channels.graph.rules.registry import rule_for


@rule_for(layers.Concatenate, *_keras_private.operation_classes("Concatenate").values())
def _concatenate(walk, operation, flows, shape):
    along = operation.axis % len(shape)
    out = {}
    for axis in set().union(*(flow.channels for flow in flows)):
        found = [walk.channels(flow, axis) for flow in flows]
        if axis == along:
            out[axis] = np.concatenate(found)
            continue
        out[axis] = found[0]
        for channels in found[1:]:
            walk.ties.tie(found[0], channels)
    return out


@rule_for(layers.Flatten, layers.Reshape)
def _reshape(walk, layer, flows, shape):
    """A channel may become a run of indices, or part of one axis of several."""
    (flow,) = flows
    if not flow.channels:
        return {}
    found = _axis_after(layer, flow, shape)
    if found is None:
        walk.freeze(flow, f"{layer.name} mixes their axis with others")
        return {}
    axis, channels = found
    if isinstance(layer, layers.Reshape) and layer.target_shape[axis - 1] != -1:
        walk.bind(layer, None, axis, channels, ("target_shape", axis - 1))
    return {axis: channels}


def _axis_after(layer, flow, shape):
    """Return where channels are after a reshape, and them; `None` if on two axes."""
    sizes = flow.shape[1:]
    if None in (*sizes, *shape[1:]) or len(flow.channels) > 1:
        return None
    ((axis, channels),) = flow.channels.items()
    at = [1] * len(sizes)
    at[axis - 1] = -1
    spread = np.broadcast_to(channels.reshape(at), sizes)
    return _varying(spread.transpose(_moved(layer, sizes)).reshape(shape[1:]))


def _moved(layer, sizes):
    """A Flatten brings channels that come first to the end."""
    order = list(range(len(sizes)))
    first = getattr(layer, "data_format", None) == "channels_first"
    return order[1:] + order[:1] if first and len(sizes) > 1 else order


def _varying(numbers):
    """Return the only axis, the batch counted, along which numbers vary, and them."""
    found = []
    for axis in range(numbers.ndim):
        first = np.take(numbers, [0], axis)
        if (numbers != first).any():
            found.append(axis)
    if len(found) > 1:
        return None
    axis = found[0] if found else numbers.ndim - 1
    index = [0] * numbers.ndim
    index[axis] = slice(None)
    return axis + 1, numbers[tuple(index)]
