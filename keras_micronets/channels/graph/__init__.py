"""Read from a model's graph which channels belong together.

Importing this package registers all channel rules.
"""

from keras_micronets.channels.graph import position_rules, sequence_rules
from keras_micronets.channels.graph.channel_graph import (
    ChannelGraph,
    Group,
    channel_graph,
)

__all__ = ["ChannelGraph", "Group", "channel_graph"]
