"""Twins of the Keras layers that scale and shift each channel."""

import keras
from keras import ops

from keras_micronets.layers.activation_twins import make_twin
from keras_micronets.layers.batch_normalization_twin import MicroBatchNormalization
from keras_micronets.layers.device.affine import as_on_device


def _normalization(layer):
    deviation = ops.sqrt(ops.cast(layer.variance, "float32"))
    scale = ops.divide(1.0, ops.maximum(deviation, keras.backend.epsilon()))
    return scale, ops.negative(ops.multiply(layer.mean, scale))


def _rescaling(layer):
    return layer.scale, layer.offset


def _make(base, scale_and_offset):
    def call(self, inputs, *args, **kwargs):
        outputs = base.call(self, inputs, *args, **kwargs)
        outputs = as_on_device(self, inputs, outputs, scale_and_offset)
        return self.fake_quantize("output", outputs)

    doc = f"A `{base.__name__}` layer with fake quantisers on inputs and output."
    return make_twin(base, call, doc)


AFFINE_TWINS = {
    keras.layers.BatchNormalization: MicroBatchNormalization,
    keras.layers.Normalization: _make(keras.layers.Normalization, _normalization),
    keras.layers.Rescaling: _make(keras.layers.Rescaling, _rescaling),
}
