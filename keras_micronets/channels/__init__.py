"""Cut channels out of models: group, score, plan, mask and cut them."""

from keras_micronets.channels import importance
from keras_micronets.channels.counts import count_macs
from keras_micronets.channels.cut import compact, cut
from keras_micronets.channels.graph import ChannelGraph, Group, channel_graph
from keras_micronets.channels.make_plan import plan
from keras_micronets.channels.masking import mask_channels
from keras_micronets.channels.planner import Planner
from keras_micronets.channels.plans import Plan, plot_plan

__all__ = [
    "ChannelGraph",
    "Group",
    "Plan",
    "Planner",
    "channel_graph",
    "compact",
    "count_macs",
    "cut",
    "importance",
    "mask_channels",
    "plan",
    "plot_plan",
]
