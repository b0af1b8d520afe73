"""Mask the channels that a plan leaves out, and find the masked ones."""

from collections import defaultdict

import keras
import numpy as np

from keras_micronets import _keras_private
from keras_micronets.channels.counts import Counts
from keras_micronets.channels.graph import ChannelGraph, channel_graph
from keras_micronets.channels.graph.node import Node
from keras_micronets.channels.plans import Plan, build_plan
from keras_micronets.layers.kernels import Kernel, kernels
from keras_micronets.layers.micro.micro_layer import micro_class_of
from keras_micronets.layers.micro.normalization import (
    MicroAveraging,
    averaged_axes,
    averaged_shape,
)
from keras_micronets.layers.prepare import prepare_averages

__all__ = [
    "averaging_nodes",
    "mask_channels",
    "masked_plan",
    "prepare_normalizations",
    "read_mask",
    "reading_nodes",
]


def mask_channels(model: keras.Model, graph: ChannelGraph, plan: Plan) -> None:
    """Mask the kernels of a prepared model so that they read only kept channels.

    The model then predicts what the cut model would. Raw weights stay as they are, so
    that a channel can return with them. Masks of single weights that read a channel
    stay as long as it does.

    Args:
        model: A prepared model.
        graph: Its `ChannelGraph`.
        plan: The `Plan`.
    """
    keep, before = plan.kept_channels(graph), _kept_channels(model, graph)
    for kernel, nodes in _readers(model, graph):
        weights = kernel.mask | ~read_mask(nodes, before)
        kernel.assign_mask(weights & read_mask(nodes, keep))
    for layer, nodes in averaging_nodes(graph).items():
        if isinstance(layer, MicroAveraging):
            layer.channels_mask.mask.assign(_averaging_mask(layer, nodes, keep))


def prepare_normalizations(model: keras.Model) -> None:
    """Give masks to the normalisations of a model that average channels, in place."""
    prepare_averages(model, averaging_nodes(channel_graph(model)))


def averaging_nodes(graph: ChannelGraph) -> dict[keras.Layer, dict[int, Node]]:
    """Return the normalisations over channels, with nodes by the axes of their masks.

    Other layers that take a mean over channels have no masks.
    """
    found = defaultdict(dict)
    for node in graph.nodes:
        micro = micro_class_of(node.layer) if node.role == "averages" else None
        if micro is not None and issubclass(micro, MicroAveraging):
            rank = len(_keras_private.build_shape(node.layer))
            position = averaged_axes(node.layer, rank).index(node.axis)
            found[node.layer][position] = node
    return found


def _averaging_mask(
    layer: keras.Layer, nodes: dict[int, Node], keep: np.ndarray
) -> np.ndarray:
    """Return the mask of a normalisation that leaves out channels that are not kept."""
    mask = np.ones(averaged_shape(layer, _keras_private.build_shape(layer)), bool)
    for axis, node in nodes.items():
        by_axis = [-1 if i == axis else 1 for i in range(mask.ndim)]
        mask &= keep[node.channels].reshape(by_axis)
    return mask


def read_mask(nodes: list[Node], keep: np.ndarray) -> np.ndarray:
    """Return the mask of a kernel that reads only kept channels.

    Args:
        nodes: The nodes of the axes that the kernel reads.
        keep: Boolean array `(channels,)`.
    """
    mask = np.ones(nodes[0].weight.shape, bool)
    for node in nodes:
        mask &= node.broadcast(keep[node.channels])
    return mask


def reading_nodes(graph: ChannelGraph) -> dict[int, list[Node]]:
    """Return the nodes of the axes that each kernel reads, by its variable's `id`."""
    nodes = defaultdict(list)
    for node in graph.nodes:
        if node.role == "reads":
            nodes[id(node.weight)].append(node)
    return nodes


def masked_plan(model: keras.Model, graph: ChannelGraph) -> Plan:
    """Return the plan that keeps the channels that some kernel of a model reads."""
    keep = _kept_channels(model, graph)
    chosen = {
        group.name: tuple(np.flatnonzero(keep[group.channels]).tolist())
        for group in graph.prunable
    }
    return build_plan(graph, Counts(model, graph), chosen)


def _kept_channels(model, graph):
    """Return which channels some kernel reads, with all that are protected."""
    readers = _readers(model, graph)
    masked = {id(node.weight) for _, nodes in readers for node in nodes}
    keep = np.zeros(graph.n_channels, bool)
    for node in graph.nodes:
        if node.role == "reads" and id(node.weight) not in masked:
            keep[node.channels] = True
    for kernel, nodes in readers:
        mask = kernel.mask
        for node in nodes:
            others = tuple(axis for axis in range(mask.ndim) if axis != node.axis)
            np.logical_or.at(keep, node.channels, mask.any(axis=others))
    for group in graph.groups:
        keep[group.channels] |= group.reason is not None
    return keep


def _readers(model, graph) -> list[tuple[Kernel, list[Node]]]:
    """Return the kernels that have masks, each with the nodes of the axes it reads."""
    nodes = reading_nodes(graph)
    handles = ((kernel, id(kernel.variable)) for kernel in kernels(model))
    return [(kernel, nodes[key]) for kernel, key in handles if key in nodes]
