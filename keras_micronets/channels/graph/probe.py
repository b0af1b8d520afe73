"""Try whether an operation without weights takes the channels of its inputs apart."""

import keras
import numpy as np

from keras_micronets.channels.graph.node import Flow, described

MAGNITUDES = (0.1, 1.0, 30.0)
UNKNOWN_LENGTH, BATCH = 8, 2


def probe(walk, call, flows: list[Flow]) -> list[Flow]:
    """Return what an operation makes of tensors, whose channels it may leave apart.

    It does if fewer channels in are the same fewer channels out, whatever they are:
    tried with random values of several magnitudes. That is so of activations,
    arithmetic, pooling, padding, dropout and the like, of the user's own ones, too.
    What is not so, as a softmax over channels, freezes them.

    Args:
        walk: The `Walk`.
        call: The `Call` of the operation.
        flows: What it reads.
    """
    found = [{} for _ in call.outputs]
    for offset in sorted({a - len(f.shape) for f in flows for a in f.channels}):
        _follow(walk, call, flows, offset, found)
    return [Flow(t.shape, own) for t, own in zip(call.outputs, found, strict=True)]


def _follow(walk, call, flows, offset, found):
    """Follow the channels that all inputs have at one axis, counted from the last."""
    length = max(f.shape[o] for f, o in _at(flows, offset) if o in f.channels)
    chosen = [
        (index, flow, axis)
        for index, flow in enumerate(flows)
        for axis in [offset + len(flow.shape)]
        if axis > 0 and flow.shape[axis] == length
    ]
    for flow, axis in _at(flows, offset):  # one channel for all is needed as it is
        if axis in flow.channels and flow.shape[axis] != length:
            walk.ties.freeze(flow.channels[axis], f"{call.operation.name} repeats them")
    axes = _axes_out(call, {index: axis for index, _, axis in chosen}, offset, length)
    channels = [walk.channels(flow, axis) for _, flow, axis in chosen]
    if axes is None:
        for own in channels:
            walk.ties.freeze(own, f"{described(call.operation)} mixes them")
        return
    for own in channels[1:]:
        walk.ties.tie(channels[0], own)
    for axis, own in zip(axes, found, strict=True):
        own[axis] = channels[0]


def _at(flows, offset):
    places = [(flow, offset + len(flow.shape)) for flow in flows]
    return [(flow, axis) for flow, axis in places if axis > 0]


def _axes_out(call, axes, offset, length):
    """Return the axis of each output on which the channels are, or `None`."""
    rng = np.random.default_rng(0)
    kept = np.sort(rng.permutation(length)[: max(1, length // 2)])
    candidates = [_candidates(tensor.shape, offset, length) for tensor in call.outputs]
    if length == 1 or not all(candidates):
        return None
    for magnitude in MAGNITUDES:
        whole, part = [], []
        for x in _tensors(call):
            whole.append(_values(x, magnitude, rng))
            axis = axes.get(len(part))
            taken = whole[-1] if axis is None else np.take(whole[-1], kept, axis)
            part.append(taken)
        try:
            expected, got = _run(call, whole), _run(call, part)
        except Exception:  # of any kind: it is the user's, or a backend's
            return None
        candidates = [
            [axis for axis in own if _equal(np.take(e, kept, axis), g)]
            for own, e, g in zip(candidates, expected, got, strict=True)
        ]
        if not all(candidates):
            return None
    return [own[0] for own in candidates]


def _candidates(shape, offset, length):
    axes = [axis for axis in range(1, len(shape)) if shape[axis] == length]
    return sorted(axes, key=lambda axis: axis != offset + len(shape))


def _tensors(call):
    flat = keras.tree.flatten((call.args, call.kwargs))
    return [x for x in flat if isinstance(x, keras.KerasTensor)]


def _values(tensor, magnitude, rng):
    shape = [BATCH, *(length or UNKNOWN_LENGTH for length in tensor.shape[1:])]
    return (rng.normal(0, 1, shape) * magnitude).astype(tensor.dtype)


def _run(call, values):
    values = iter(values)
    args, kwargs = keras.tree.map_structure(
        lambda x: next(values) if isinstance(x, keras.KerasTensor) else x,
        (call.args, call.kwargs),
    )
    args, kwargs = keras.tree.map_structure(
        lambda x: keras.ops.convert_to_tensor(x) if isinstance(x, np.ndarray) else x,
        (args, kwargs),
    )
    made = keras.tree.flatten(call.operation(*args, **kwargs))
    return [keras.ops.convert_to_numpy(y) for y in made]


def _equal(first, second):
    return first.shape == second.shape and np.allclose(
        first, second, rtol=1e-5, atol=1e-6, equal_nan=True
    )
