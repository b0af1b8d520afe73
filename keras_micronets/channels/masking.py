"""Channels that a prepared model has, but does not use."""

from collections import defaultdict

import keras
import numpy as np

from keras_micronets.channels.counts import Counts
from keras_micronets.channels.cut import cut_by_graph
from keras_micronets.channels.graph import ChannelGraph, Node, channel_graph
from keras_micronets.channels.planner import describe
from keras_micronets.channels.plans import Plan
from keras_micronets.layers.kernels import Kernel, kernels


def mask_channels(model: keras.Model, graph: ChannelGraph, plan: Plan) -> None:
    """Let the kernels of a prepared model read only the channels that a plan keeps.

    The weights are left as they are, so that a channel may come back with them. That
    is all that is needed to predict what the cut model does: what reads nothing of a
    channel, whatever it is, does not depend on it.

    Args:
        model: A prepared model.
        graph: Its `ChannelGraph`.
        plan: The `Plan`.
    """
    keep = plan.kept_channels(graph)
    for kernel, nodes in _readers(model, graph):
        mask = np.ones(nodes[0].weight.shape, bool)
        for node in nodes:
            mask &= node.along(keep[node.channels])
        kernel.assign_mask(mask)


def compact(model: keras.Model) -> keras.Model:
    """Return a plain Keras model without the channels that no kernel reads.

    Args:
        model: A prepared model that `callbacks.ChannelPruning` has masked.

    Returns:
        A new Keras model, as `cut` makes it.

    Raises:
        ValueError: If the model is subclassed.

    Example:

    ```python
    pruning = keras_micronets.callbacks.ChannelPruning(macs=0.5)
    model.fit(x, y, epochs=20, callbacks=[pruning])
    small = keras_micronets.channels.compact(model)
    ```
    """
    graph = channel_graph(model)
    return cut_by_graph(model, graph, masked_plan(model, graph))


def masked_plan(model: keras.Model, graph: ChannelGraph) -> Plan:
    """Return the plan that keeps the channels that some kernel of a model reads.

    Args:
        model: A prepared model.
        graph: Its `ChannelGraph`.
    """
    readers = _readers(model, graph)
    masked = {id(node.weight) for _, nodes in readers for node in nodes}
    is_read = np.zeros(graph.n_channels, bool)
    for node in graph.nodes:
        if node.role == "reads" and id(node.weight) not in masked:
            is_read[node.channels] = True
    for kernel, nodes in readers:
        mask = kernel.mask
        for node in nodes:
            others = tuple(a for a in range(mask.ndim) if a != node.axis)
            np.logical_or.at(is_read, node.channels, mask.any(axis=others))
    chosen = {
        group.name: tuple(np.flatnonzero(is_read[group.channels]).tolist())
        for group in graph.free
    }
    return describe(graph, Counts(model, graph), chosen)


def _readers(model, graph) -> list[tuple[Kernel, list[Node]]]:
    """The kernels that have masks, each with the axes that it sums over."""
    nodes = defaultdict(list)
    for node in graph.nodes:
        if node.role == "reads":
            nodes[id(node.weight)].append(node)
    found = ((kernel, kernel.variable) for kernel in kernels(model))
    return [(k, nodes[id(raw)]) for k, raw in found if id(raw) in nodes]
