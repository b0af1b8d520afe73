"""Micro layers of the Keras layers that scale and shift each channel."""

from typing import Any

import keras
from keras import ops

from keras_micronets.layers.litert.affine import scale_and_shift
from keras_micronets.layers.micro.micro_layer import (
    MicroLayer,
    make_micro_class,
    micro_class,
)

__all__ = ["MicroBatchNormalization"]


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
