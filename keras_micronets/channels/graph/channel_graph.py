from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass, replace

import keras
import numpy as np

from keras_micronets import _keras_private
from keras_micronets.channels.graph.node import Node, Products
from keras_micronets.channels.graph.trace import Walk
from keras_micronets.layers.kernels import kernels


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that the same layers hold, each to be kept or cut in all of them.

    Attributes:
        name: The names of the layers that make them.
        channels: Integer array, the numbers of the channels.
        nodes: Dictionary from the position of a `Node` in the graph to how many of
            its indices each channel has.
        reason: Why none of them can be cut; `None` if they can.
    """

    name: str
    channels: np.ndarray
    nodes: dict[int, int]
    reason: str | None = None


@dataclass(frozen=True, eq=False)
class ChannelGraph:
    """Which channels of a model must be cut together.

    Attributes:
        nodes: Tuple of `Node`s; their channels are numbered so that tied ones have
            one number.
        groups: Tuple of `Group`s, those that can't be cut as well.
        products: Tuple of `Products`, what multiplications there are.
        unknown: Dictionary from the names of layers that are not understood to their
            classes' names.
        is_open: Boolean, whether the model leaves sizes of its inputs open, on which
            the number of multiplications depends.
    """

    nodes: tuple[Node, ...]
    groups: tuple[Group, ...]
    products: tuple[Products, ...]
    unknown: dict[str, str]
    is_open: bool = False

    @property
    def n_channels(self) -> int:
        """One more than the largest number of a channel."""
        return 1 + max((int(g.channels.max()) for g in self.groups), default=-1)

    @property
    def free(self) -> tuple[Group, ...]:
        """The groups whose channels can be cut."""
        return tuple(group for group in self.groups if group.reason is None)


def channel_graph(model: keras.Model) -> ChannelGraph:
    """Read from a model's own graph which channels must be cut together.

    Nested models are walked, shared layers cut once for all their calls. Layers
    without weights are tried: those that treat channels apart let them through.
    What is not understood keeps its size, with everything that depends on it.

    Args:
        model: A built functional or sequential model, prepared or not.

    Raises:
        ValueError: If the model is subclassed, so that it has no graph to read.
    """
    if not _keras_private.is_functional(model):
        raise ValueError(
            "Expected a functional or sequential model, whose graph says which "
            f"channels belong together. Received: {model.name!r}, a "
            f"{type(model).__name__} that is not built or has no graph. Build it, or "
            "make it a functional model of the same layers."
        )
    walk = Walk(model)
    numbers, reasons = walk.ties.components(), walk.ties.reasons()

    def numbered(channels):
        return numbers[channels]

    nodes = tuple(
        replace(node, channels=numbered(node.channels)) for node in walk.nodes.values()
    )
    products = tuple(
        replace(product, axes=tuple(map(numbered, product.axes)))
        for product in walk.products
    )
    groups = _groups(nodes, reasons)
    return ChannelGraph(nodes, groups, products, dict(walk.unknown), walk.is_open)


def protect(graph: ChannelGraph, names: Collection[str]) -> ChannelGraph:
    """Return the graph in which some layers keep all channels that they read or make.

    Args:
        graph: A `ChannelGraph`.
        names: Names of layers.
    """

    def reason(nodes):
        outside = any(node.layer.name in names for node in nodes)
        return "outside the scope" if outside else None

    return _protected(graph, reason)


def maskable(model: keras.Model, graph: ChannelGraph) -> ChannelGraph:
    """Return the graph with those channels frozen that masks can't leave out.

    Args:
        model: A prepared model.
        graph: Its `ChannelGraph`.
    """
    raw = {id(kernel.variable) for kernel in kernels(model)}

    def reason(nodes):
        for node in nodes:
            if node.role == "averages":
                return f"{node.layer.name} takes a mean over them"
        for node in nodes:
            if node.role == "reads" and id(node.weight) not in raw:
                return f"{node.layer.name} has no mask to leave them out"
        return None

    return _protected(graph, reason)


def _protected(graph, reason):
    """The graph with more groups frozen, those whose nodes give a reason."""

    def judged(group):
        nodes = [graph.nodes[index] for index in group.nodes]
        return replace(group, reason=group.reason or reason(nodes))

    return replace(graph, groups=tuple(map(judged, graph.groups)))


def _groups(nodes, reasons):
    held = defaultdict(dict)
    for index, node in enumerate(nodes):
        for channel, times in Counter(node.channels.tolist()).items():
            held[channel][index] = times
    alike = defaultdict(list)
    for channel, by_node in held.items():
        if not any(nodes[index].role == "reads" for index in by_node):
            reasons.setdefault(channel, "nothing sums over them")
        alike[tuple(by_node.items()), reasons.get(channel)].append(channel)
    names, groups = Counter(), []
    for (by_node, reason), channels in alike.items():
        name = _name(nodes, by_node)
        names[name] += 1
        unique = name if names[name] == 1 else f"{name}#{names[name]}"
        groups.append(Group(unique, np.array(channels), dict(by_node), reason))
    return tuple(groups)


def _name(nodes, by_node):
    """Of the layers that make the channels, or else of those that hold them."""
    held = [nodes[index] for index, _ in by_node]
    makers = [node for node in held if node.role == "makes"]
    named = [node.layer.name for node in makers if node.weight is not None]
    names = named or [f"input of {held[0].layer.name}"]
    return "+".join(dict.fromkeys(names))
