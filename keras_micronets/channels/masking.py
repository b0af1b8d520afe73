"""Mask the channels that a plan leaves out, and find the masked ones."""

from collections import defaultdict

import keras
import numpy as np

from keras_micronets.channels.counts import Counts
from keras_micronets.channels.graph import ChannelGraph
from keras_micronets.channels.graph.node import Node
from keras_micronets.channels.plans import Plan, build_plan
from keras_micronets.layers.kernels import Kernel, kernels

__all__ = ["mask_channels", "masked_plan", "read_mask", "reading_nodes"]


def mask_channels(model: keras.Model, graph: ChannelGraph, plan: Plan) -> None:
    """Mask the kernels of a prepared model so that they read only kept channels.

    The model then predicts what the cut model would. Raw weights stay as they are, so
    that a channel can return with them.

    Args:
        model: A prepared model.
        graph: Its `ChannelGraph`.
        plan: The `Plan`.
    """
    keep = plan.kept_channels(graph)
    for kernel, nodes in _readers(model, graph):
        kernel.assign_mask(read_mask(nodes, keep))


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
    readers = _readers(model, graph)
    masked = {id(node.weight) for _, nodes in readers for node in nodes}
    is_read = np.zeros(graph.n_channels, bool)
    for node in graph.nodes:
        if node.role == "reads" and id(node.weight) not in masked:
            is_read[node.channels] = True
    for kernel, nodes in readers:
        mask = kernel.mask
        for node in nodes:
            others = tuple(axis for axis in range(mask.ndim) if axis != node.axis)
            np.logical_or.at(is_read, node.channels, mask.any(axis=others))
    chosen = {
        group.name: tuple(np.flatnonzero(is_read[group.channels]).tolist())
        for group in graph.prunable
    }
    return build_plan(graph, Counts(model, graph), chosen)


def _readers(model, graph) -> list[tuple[Kernel, list[Node]]]:
    """Return the kernels that have masks, each with the nodes of the axes it reads."""
    nodes = reading_nodes(graph)
    handles = ((kernel, id(kernel.variable)) for kernel in kernels(model))
    return [(kernel, nodes[key]) for kernel, key in handles if key in nodes]
