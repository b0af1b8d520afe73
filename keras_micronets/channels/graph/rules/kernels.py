"""How layers with kernels pass channels on."""

from string import ascii_uppercase

import numpy as np
from keras import layers

from keras_micronets.channels.graph.rules.axes import (
    channels_of,
    follow,
    made,
    places,
    weight,
)
from keras_micronets.channels.graph.rules.registry import rule_for


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
