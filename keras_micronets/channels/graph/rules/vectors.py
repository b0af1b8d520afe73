"""How layers that have a number for each channel pass channels on."""

import numpy as np
from keras import layers

from keras_micronets import _keras_private
from keras_micronets.channels.graph.rules.axes import follow
from keras_micronets.channels.graph.rules.registry import rule_for


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
