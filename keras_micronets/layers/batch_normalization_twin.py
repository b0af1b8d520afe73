import keras
from keras import ops

from keras_micronets.layers.device.affine import as_on_device
from keras_micronets.layers.twin import Twin


@keras.saving.register_keras_serializable("keras_micronets", "MicroBatchNormalization")
class MicroBatchNormalization(Twin, keras.layers.BatchNormalization):
    """A `BatchNormalization` layer with fake quantisers, and statistics to hold.

    While `held` is set, training computes with the moving statistics, as
    inference does, and leaves them; scale and offset are trained on. While it does
    not train, its offset is rounded to the integers that the device adds.
    """

    held = False

    def call(self, inputs, training=None, mask=None):
        inputs = self.quantize_inputs(inputs)
        outputs = super().call(inputs, training=training and not self.held, mask=mask)
        if not (training and self.trainable):
            outputs = as_on_device(self, inputs, outputs, _scale_and_offset)
        return self.fake_quantize("output", outputs)


def _scale_and_offset(layer):
    variance = ops.add(layer.moving_variance, layer.epsilon)
    scale = ops.rsqrt(ops.cast(variance, "float32"))
    if layer.scale:
        scale = ops.multiply(scale, layer.gamma)
    offset = ops.negative(ops.multiply(layer.moving_mean, scale))
    return scale, ops.add(offset, layer.beta) if layer.center else offset


# As the other twins: each class loads the other's weight files.
MicroBatchNormalization.__name__ = "BatchNormalization"
