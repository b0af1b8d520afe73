"""Where fake quantisers go, and what the device computes together or in float."""

from keras_micronets.layers.placement.placement import Placement, place_quantizers

__all__ = ["Placement", "place_quantizers"]
