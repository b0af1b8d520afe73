"""Read from a model's graph which channels belong together."""

from keras_micronets.channels.graph.channel_graph import (
    ChannelGraph,
    Group,
    channel_graph,
)

__all__ = ["ChannelGraph", "Group", "channel_graph"]
