import keras

from keras_micronets.layers.twin import Twin


@keras.saving.register_keras_serializable("keras_micronets", "MicroBatchNormalization")
class MicroBatchNormalization(Twin, keras.layers.BatchNormalization):
    """A `BatchNormalization` layer with fake quantisers, and statistics to hold.

    While `held` is set, training computes with the moving statistics, as
    inference does, and leaves them; scale and offset are trained on.
    """

    held = False

    def call(self, inputs, training=None, mask=None):
        inputs = self.quantize_inputs(inputs)
        training = training and not self.held
        outputs = super().call(inputs, training=training, mask=mask)
        return self.fake_quantize("output", outputs)


# As the other twins: each class loads the other's weight files.
MicroBatchNormalization.__name__ = "BatchNormalization"
