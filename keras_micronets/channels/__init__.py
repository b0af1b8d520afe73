"""Take channels out of a network: which go together, which to keep, and the cut."""

from keras_micronets.channels import utilities
from keras_micronets.channels.cut import cut
from keras_micronets.channels.graph import ChannelGraph, Group, channel_graph
from keras_micronets.channels.make_plan import plan
from keras_micronets.channels.masking import compact, mask_channels
from keras_micronets.channels.planning import Plan
from keras_micronets.channels.planning.counts import count_macs
from keras_micronets.channels.planning.plan_picture import plot_plan
from keras_micronets.channels.planning.planner import Planner
