"""Micro layers of the Keras layers that scale and shift each channel."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_micronets import _keras_private
from keras_micronets.layers.litert.affine import scale_and_shift
from keras_micronets.layers.litert.float_islands import kept_in_float
from keras_micronets.layers.micro.micro_layer import (
    MicroLayer,
    make_micro_class,
    micro_class,
)
from keras_micronets.layers.state import Mask

__all__ = [
    "MicroAveraging",
    "MicroBatchNormalization",
    "MicroGroupNormalization",
    "MicroLayerNormalization",
    "MicroRMSNormalization",
    "averaged_axes",
    "averaged_shape",
]


@micro_class(keras.layers.BatchNormalization)
class MicroBatchNormalization(MicroLayer, keras.layers.BatchNormalization):
    """A `BatchNormalization` layer with fake quantisers whose statistics can be frozen.

    While `frozen` is set, training computes with the moving statistics, as
    inference does, and leaves them; scale and offset are still trained. In inference,
    the offset is rounded to the integers that LiteRT adds.
    """

    frozen = False

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        inputs = self.quantize_inputs(inputs)
        outputs = super().call(inputs, training=training and not self.frozen, mask=mask)
        if not (training and self.trainable):
            outputs = scale_and_shift(self, inputs, outputs, _scale_and_offset)
        return self.fake_quantize("output", outputs)


def _scale_and_offset(layer):
    variance = ops.add(layer.moving_variance, layer.epsilon)
    scale = ops.rsqrt(ops.cast(variance, "float32"))
    if layer.scale:
        scale = ops.multiply(scale, layer.gamma)
    offset = ops.negative(ops.multiply(layer.moving_mean, scale))
    return scale, ops.add(offset, layer.beta) if layer.center else offset


def _normalization(layer):
    deviation = ops.sqrt(ops.cast(layer.variance, "float32"))
    scale = ops.divide(1.0, ops.maximum(deviation, keras.backend.epsilon()))
    return scale, ops.negative(ops.multiply(layer.mean, scale))


def _rescaling(layer):
    return layer.scale, layer.offset


def _make(base, scale_and_offset):
    def call(self, inputs, *args, **kwargs):
        outputs = base.call(self, inputs, *args, **kwargs)
        outputs = scale_and_shift(self, inputs, outputs, scale_and_offset)
        return self.fake_quantize("output", outputs)

    doc = f"A `{base.__name__}` layer with fake quantisers on inputs and output."
    return make_micro_class(base, call, doc)


_make(keras.layers.Normalization, _normalization)
_make(keras.layers.Rescaling, _rescaling)


class MicroAveraging(MicroLayer):
    """Base class of the normalisations by a mean over channels, computed in float.

    A mask of the channels leaves some out of the mean and the variance, as if they
    were cut. Only `callbacks.ChannelPruning` and `masks.Channels` prepare these layers.
    """

    channels_mask: Any
    _input_shape: Any = None

    def build(self, input_shape: Any) -> None:
        self._input_shape = tuple(input_shape)  # Keras notes it after `build`
        super().build(input_shape)

    def build_state(self) -> None:
        shape = self._input_shape or _keras_private.build_shape(self)
        self.add_nested("channels_mask", Mask, averaged_shape(self, shape))
        super().build_state()

    def call(self, inputs: Any) -> Any:
        mask = ops.convert_to_tensor(self.channels_mask.mask)
        return _normalized(self, kept_in_float(inputs), mask)


@micro_class(keras.layers.LayerNormalization)
class MicroLayerNormalization(MicroAveraging, keras.layers.LayerNormalization):
    """A `LayerNormalization` layer over the channels that a mask keeps."""


@micro_class(keras.layers.RMSNormalization)
class MicroRMSNormalization(MicroAveraging, keras.layers.RMSNormalization):
    """An `RMSNormalization` layer over the channels that a mask keeps."""


@micro_class(keras.layers.GroupNormalization)
class MicroGroupNormalization(MicroAveraging, keras.layers.GroupNormalization):
    """A `GroupNormalization` layer over the channels that a mask keeps.

    Each group has as many of them.
    """


def averaged_axes(layer: keras.Layer, rank: int) -> list[int]:
    """Return the axes of inputs of some rank that the mask of a normalisation has."""
    return [int(axis) % rank for axis in np.atleast_1d(layer.axis)]


def averaged_shape(layer: keras.Layer, input_shape: Any) -> tuple[int, ...]:
    """Return the shape of a normalisation's mask; open sizes have one element."""
    axes = averaged_axes(layer, len(input_shape))
    return tuple(input_shape[axis] or 1 for axis in axes)


def _normalized(layer, inputs, mask):
    """Compute a normalisation over the channels of a mask, in float32 at least."""
    axes, shape = averaged_axes(layer, len(inputs.shape)), [1] * len(inputs.shape)
    for axis, length in zip(axes, mask.shape, strict=True):
        shape[axis] = length
    x = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
    x = _standardized(layer, x, ops.reshape(mask, shape), axes)
    gamma = layer.scale if _is_rms(layer) else layer.gamma
    weights = (ops.multiply, gamma), (ops.add, getattr(layer, "beta", None))
    for combine, weight in weights:
        if weight is not None:
            x = combine(x, ops.reshape(ops.cast(weight, x.dtype), shape))
    return ops.cast(x, layer.compute_dtype)


def _is_rms(layer):
    return isinstance(layer, keras.layers.RMSNormalization)


def _standardized(layer, x, kept, axes):
    """Subtract means and divide by deviations, of groups if the layer has them."""
    if not isinstance(layer, keras.layers.GroupNormalization):
        return _divided(layer, x, kept, axes)
    (axis,), sizes = axes, (-1, *ops.shape(x)[1:])

    def split(values, shape):
        groups = layer.groups, shape[axis] // layer.groups
        return ops.reshape(values, (*shape[:axis], *groups, *shape[axis + 1 :]))

    within = [other for other in range(1, len(sizes) + 1) if other != axis]
    x = _divided(layer, split(x, sizes), split(kept, kept.shape), within)
    return ops.reshape(x, sizes)


def _divided(layer, x, kept, axes):
    share = ops.mean(ops.cast(kept, x.dtype))

    def mean(values):
        zeroed = ops.where(kept, values, 0.0)
        return ops.divide(ops.mean(zeroed, axis=axes, keepdims=True), share)

    centred = x if _is_rms(layer) else ops.subtract(x, mean(x))
    deviation = ops.sqrt(ops.add(mean(ops.square(centred)), layer.epsilon))
    return ops.divide(x if getattr(layer, "rms_scaling", 0) else centred, deviation)
