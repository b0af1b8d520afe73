"""Which channels belong together: read from a model's own graph."""

from keras_micronets.channels.graph.channel_graph import (
    ChannelGraph,
    Group,
    channel_graph,
    maskable,
    protect,
)
from keras_micronets.channels.graph.node import Node
