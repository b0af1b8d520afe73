"""What rules have in common."""

from collections.abc import Callable
from string import ascii_uppercase

import keras
import numpy as np
from keras import layers

from keras_micronets import _keras_private
from keras_micronets.layers.litert.capabilities import plain_class

_RULES: dict[type, Callable] = {}


def rule_for(*classes: type) -> Callable:
    """Make a function the rule of some classes of layers or operations."""

    def register(rule):
        _RULES.update(dict.fromkeys(classes, rule))
        return rule

    return register


def rule_of(operation: keras.Operation) -> Callable | None:
    """Return the function that tells what an operation does to channels, if any.

    It is called as `rule(walk, operation, flows, shape)`, with what the operation
    reads and the shape of what it makes, and returns the channels of the latter by
    axis. Layers that Keras has quantised, or given LoRA weights, have none.
    """
    altered = getattr(operation, "quantization_mode", None) or getattr(
        operation, "lora_enabled", False
    )
    return None if altered else _RULES.get(plain_class(operation))


def weight(layer, name: str) -> keras.Variable:
    """Return a variable of a layer, a twin's raw kernel."""
    raw = getattr(layer, "raw", None)
    return raw(name) if raw and name in layer.kernel_names else getattr(layer, name)


def channels_of(walk, layer, flow):
    """Return the channels that a convolution reads, and their axis; freeze others."""
    rank = len(flow.shape)
    axis = 1 if layer.data_format == "channels_first" else rank - 1
    walk.freeze(flow, f"{layer.name} slides along their axis", but=(axis,))
    return walk.channels(flow, axis), axis


def places(shape, axis: int) -> list[int]:
    """Return the axes along which a convolution slides."""
    return [place for place in range(1, len(shape)) if place != axis]


def made(walk, layer, kernel, axis, setting, repeats=1):
    """Return the channels that a kernel makes, which a bias has, too."""
    out = walk.make(layer, kernel, axis, setting, repeats)
    follow(walk, layer, out, "bias")
    return out


def follow(walk, layer, channels, *names: str) -> None:
    """Note that vectors of a layer have an element for each channel."""
    for name in names:
        weight = getattr(layer, name, None)
        if weight is not None:
            walk.bind(layer, weight, 0, channels)


@rule_for(layers.Dense)
def _dense(walk, layer, flows, shape):
    (flow,) = flows
    last = len(shape) - 1
    kernel = weight(layer, "kernel")
    walk.bind(layer, kernel, 0, walk.channels(flow, last), role="reads")
    along = {axis: ids for axis, ids in flow.channels.items() if axis != last}
    walk.multiply(kernel, flow.shape, range(1, last), along)
    return along | {last: made(walk, layer, kernel, -1, ("units", None))}


@rule_for(layers.Conv1D, layers.Conv2D, layers.Conv3D)
def _convolution(walk, layer, flows, shape):
    channels, axis = channels_of(walk, layer, flows[0])
    kernel = weight(layer, "kernel")
    filters, groups = ("filters", None), layer.groups
    if groups == len(channels) > 1:  # each group goes as a whole
        out = np.repeat(channels, layer.filters // groups)
        walk.bind(layer, kernel, -1, out, filters)
        walk.bind(layer, None, 0, channels, ("groups", None))
        follow(walk, layer, out, "bias")
    else:  # groups stay, and lose the same of their channels
        by_group = channels.reshape(groups, -1)
        walk.ties.tie(by_group, np.broadcast_to(by_group[0], by_group.shape))
        walk.bind(layer, kernel, -2, by_group[0], role="reads")
        out = made(walk, layer, kernel, -1, filters, groups)
    walk.multiply(kernel, shape, places(shape, axis), {})
    return {axis: out}


@rule_for(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
def _transposed(walk, layer, flows, shape):
    channels, axis = channels_of(walk, layer, flows[0])
    kernel = weight(layer, "kernel")
    walk.bind(layer, kernel, -1, channels, role="reads")
    walk.multiply(kernel, flows[0].shape, places(shape, axis), {})
    return {axis: made(walk, layer, kernel, -2, ("filters", None))}


@rule_for(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
def _depthwise(walk, layer, flows, shape):
    channels, axis = channels_of(walk, layer, flows[0])
    kernel = weight(layer, "kernel")
    walk.bind(layer, kernel, -2, channels)
    walk.multiply(kernel, shape, places(shape, axis), {})
    out = np.repeat(channels, layer.depth_multiplier)
    follow(walk, layer, out, "bias")
    return {axis: out}


@rule_for(layers.SeparableConv1D, layers.SeparableConv2D)
def _separable(walk, layer, flows, shape):
    channels, axis = channels_of(walk, layer, flows[0])
    kernels = [weight(layer, f"{name}_kernel") for name in ("depthwise", "pointwise")]
    walk.bind(layer, kernels[0], -2, channels)
    between = np.repeat(channels, layer.depth_multiplier)
    walk.bind(layer, kernels[1], -2, between, role="reads")
    for kernel in kernels:
        walk.multiply(kernel, shape, places(shape, axis), {})
    return {axis: made(walk, layer, kernels[1], -1, ("filters", None))}


@rule_for(layers.EinsumDense)
def _einsum(walk, layer, flows, shape):
    (flow,) = flows
    read, own, after = _letters(layer, len(flow.shape))
    kernel, out = weight(layer, "kernel"), {}

    def setting(letter):  # the shape that is set leaves out what no letter stands for
        explicit = layer.equation.partition("->")[2].replace(".", "").strip()
        skipped = 0 if "..." in layer.equation else 1
        return "output_shape", explicit.index(letter) - skipped

    for axis, letter in enumerate(read):
        if letter in own and letter not in after:
            channels = walk.channels(flow, axis)
            walk.bind(layer, kernel, own.index(letter), channels, role="reads")
        elif letter in own or axis in flow.channels:
            out[letter] = walk.channels(flow, axis)
            if letter in own:
                walk.bind(layer, kernel, own.index(letter), out[letter])
            if letter in layer.equation:
                walk.bind(layer, None, axis, out[letter], setting(letter))
    for axis, letter in enumerate(own):
        if letter not in read:
            out[letter] = walk.make(layer, kernel, axis, setting(letter))
    for axis, length in enumerate(layer.bias.shape if layer.bias is not None else ()):
        letter = after[axis - len(layer.bias.shape)]
        if length > 1 and letter in out:
            walk.bind(layer, layer.bias, axis, out[letter])
    places = [axis for axis in range(1, len(read)) if read[axis] not in own]
    walk.multiply(kernel, flow.shape, places, flow.channels)
    return {after.index(letter): channels for letter, channels in out.items()}


def _letters(layer, rank):
    """The letters of an einsum's input, kernel and output, with none left out."""
    read, _, rest = layer.equation.replace(" ", "").partition(",")
    own, _, made = rest.partition("->")
    spare = [letter for letter in ascii_uppercase if letter not in layer.equation]
    batch = "".join(spare[: rank - len(read.replace("...", ""))])
    return read.replace("...", batch), own, made.replace("...", batch)


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


@rule_for(layers.BatchNormalization)
def _batch_normalization(walk, layer, flows, shape):
    (flow,) = flows
    axis = layer.axis % len(shape)
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    follow(walk, layer, walk.channels(flow, axis), *names)
    return flow.channels


@rule_for(layers.LayerNormalization, layers.RMSNormalization)
def _layer_normalization(walk, layer, flows, shape):
    """A mean over channels is one over those that stay, once others are cut."""
    (flow,) = flows
    axes = [axis % len(shape) for axis in np.atleast_1d(layer.axis)]
    for place, axis in enumerate(axes):
        if axis in flow.channels:
            channels = flow.channels[axis]
            walk.bind(layer, None, axis, channels, role="averages")
            for name in ("gamma", "beta", "scale"):
                weight = getattr(layer, name, None)
                if getattr(weight, "shape", None):  # `scale` may be a Boolean
                    walk.bind(layer, weight, place, channels)
    return flow.channels


@rule_for(layers.GroupNormalization)
def _group_normalization(walk, layer, flows, shape):
    (flow,) = flows
    axis = layer.axis % len(shape)
    channels = walk.channels(flow, axis)
    names = ("gamma", "beta")
    if layer.groups in (-1, len(channels)):  # each is normalised for itself
        follow(walk, layer, channels, *names)
        if layer.groups != -1:
            walk.bind(layer, None, 0, channels, ("groups", None))
        return flow.channels
    by_group = channels.reshape(layer.groups, -1)  # groups stay, and lose the same
    walk.ties.tie(by_group, np.broadcast_to(by_group[0], by_group.shape))
    walk.bind(layer, None, axis, channels, role="averages")
    follow(walk, layer, channels, *names)
    others = {a: ids for a, ids in flow.channels.items() if a not in (0, axis)}
    for ids in others.values():
        walk.ties.freeze(ids, f"{layer.name} takes a mean over them")
    return flow.channels


@rule_for(*_keras_private.application_classes("ConvNeXtTiny", "LayerScale"))
def _layer_scale(walk, layer, flows, shape):
    (flow,) = flows
    last = len(shape) - 1
    channels = walk.channels(flow, last)
    walk.bind(layer, layer.gamma, 0, channels, ("projection_dim", None))
    return flow.channels


@rule_for(layers.PReLU)
def _prelu(walk, layer, flows, shape):
    (flow,) = flows
    for axis, channels in flow.channels.items():
        if layer.alpha.shape[axis - 1] > 1:
            walk.bind(layer, layer.alpha, axis - 1, channels)
    return flow.channels


@rule_for(layers.Embedding)
def _embedding(walk, layer, flows, shape):
    setting = ("output_dim", None)
    weight = layer.embeddings
    return {len(shape) - 1: walk.make(layer, weight, -1, setting)}
