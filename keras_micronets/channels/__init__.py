"""Take channels out of a network: which go together, which to keep, and the cut."""

from keras_micronets.channels import importance
from keras_micronets.channels.counts import count_macs
from keras_micronets.channels.cut import cut
from keras_micronets.channels.graph import ChannelGraph, Group, channel_graph
from keras_micronets.channels.make_plan import plan
from keras_micronets.channels.masking import compact, mask_channels
from keras_micronets.channels.planner import Planner
from keras_micronets.channels.plans import Plan, plot_plan
