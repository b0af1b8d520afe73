"""Groups of channels that must be cut together, read from a model's graph."""

from collections import Counter, defaultdict
from dataclasses import dataclass, replace

import keras
import numpy as np

from keras_micronets import _keras_private
from keras_micronets.channels.graph.node import KernelCall, Node
from keras_micronets.channels.graph.trace import Tracer
from keras_micronets.layers import SideBySide

__all__ = ["ChannelGraph", "Group", "channel_graph"]


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that the same layers have; each is kept or cut in all of them.

    Attributes:
        name: The names of the layers that produce them.
        channels: Integer array of channel numbers.
        nodes: Dictionary from the index of a `Node` in the graph to how many indices
            of its axis each channel has.
        reason: Why the channels are protected from being cut; `None` if they are not.
    """

    name: str
    channels: np.ndarray
    nodes: dict[int, int]
    reason: str | None = None


@dataclass(frozen=True, eq=False)
class ChannelGraph:
    """The channels of a model, in groups that must be cut together.

    Attributes:
        nodes: Tuple of `Node`s. Tied channels have the same number.
        groups: Tuple of `Group`s, protected ones included.
        kernel_calls: Tuple of `KernelCall`s.
        unknown: Dictionary from the names of layers with weights but without a channel
            rule to their classes' names. Their channels are protected.
        other_macs: Integer, multiply-accumulates of operations whose channels are all
            kept, such as custom layers and matrix products.
        uncounted: Tuple of names and classes of the operations that could not be run to
            count theirs.
        has_open_sizes: Boolean, whether the number of multiplications depends on input
            sizes that the model leaves open.
    """

    nodes: tuple[Node, ...]
    groups: tuple[Group, ...]
    kernel_calls: tuple[KernelCall, ...]
    unknown: dict[str, str]
    other_macs: int = 0
    uncounted: tuple[str, ...] = ()
    has_open_sizes: bool = False

    @property
    def n_channels(self) -> int:
        """One more than the largest channel number."""
        return 1 + max((int(g.channels.max()) for g in self.groups), default=-1)

    @property
    def prunable(self) -> tuple[Group, ...]:
        """The groups whose channels can be cut."""
        return tuple(group for group in self.groups if group.reason is None)


def channel_graph(model: keras.Model) -> ChannelGraph:
    """Find the groups of channels of a model that must be cut together.

    Nested models are traced, and shared layers are cut once for all their calls. Layers
    without weights are run on random values: those that keep channels apart pass them
    on. Channels are the units of recurrent layers and the heads of attention, too, and
    may be sliced, split, padded, repeated and reshaped. Channels that reach any other
    operation are protected.

    Args:
        model: A built functional or sequential model, prepared or not.

    Returns:
        A `ChannelGraph`.

    Raises:
        ValueError: If the model is subclassed or not built: it has no graph to read.
    """
    if isinstance(model, SideBySide):
        raise ValueError(
            "Expected one model, whose channels belong together. Received: a "
            f"`SideBySide` model of {len(model.members)} members. Plan or cut each of "
            "its `members` after `fit`."
        )
    if not _keras_private.is_functional(model):
        raise ValueError(
            "Expected a built functional or sequential model, whose graph shows which "
            f"channels belong together. Received: {model.name!r}, a "
            f"{type(model).__name__} without a graph. Build it, or make it a "
            "functional model of the same layers."
        )
    tracer = Tracer(model)
    numbers, reasons = tracer.ties.components(), tracer.ties.reasons()
    traced = tracer.nodes.values()
    nodes = tuple(replace(node, channels=numbers[node.channels]) for node in traced)
    kernel_calls = tuple(
        replace(call, axes=tuple(numbers[axis] for axis in call.axes))
        for call in tracer.kernel_calls
    )
    return ChannelGraph(
        *(nodes, _groups(nodes, reasons), kernel_calls, tracer.unknown),
        other_macs=tracer.other_macs,
        uncounted=tuple(dict.fromkeys(tracer.uncounted)),
        has_open_sizes=tracer.has_open_sizes,
    )


def _groups(nodes, reasons):
    """Group the channels that have the same nodes, as often, and the same reason."""
    by_channel = defaultdict(dict)
    for index, node in enumerate(nodes):
        for channel, times in Counter(node.channels.tolist()).items():
            by_channel[channel][index] = times
    members = defaultdict(list)
    for channel, times in by_channel.items():
        if not any(nodes[index].role == "reads" for index in times):
            reasons.setdefault(channel, "no kernel sums over them")
        members[tuple(times.items()), reasons.get(channel)].append(channel)
    names, groups = Counter(), []
    for (times, reason), channels in members.items():
        name = _group_name([nodes[index] for index, _ in times])
        names[name] += 1
        unique = name if names[name] == 1 else f"{name}#{names[name]}"
        groups.append(Group(unique, np.array(channels), dict(times), reason))
    return tuple(groups)


def _group_name(nodes):
    """Join the names of the layers that produce the channels, or name a reader."""
    producers = [node for node in nodes if node.role == "produces"]
    names = [node.layer.name for node in producers if node.weight is not None]
    names = names or [f"input of {nodes[0].layer.name}"]
    return "+".join(dict.fromkeys(names))
