"""Twins of the Keras layers without kernels, for their fake quantisers."""

import functools

import keras

from keras_micronets.layers.batch_normalization_twin import MicroBatchNormalization
from keras_micronets.layers.twin import Twin

# Their outputs have the scale of their input on the device: they need a twin
# only to quantise what they read.
PASS_THROUGH = (
    keras.layers.Cropping1D,
    keras.layers.Cropping2D,
    keras.layers.Dropout,
    keras.layers.Flatten,
    keras.layers.GlobalMaxPooling1D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.Identity,
    keras.layers.MaxPooling1D,
    keras.layers.MaxPooling2D,
    keras.layers.Permute,
    keras.layers.Reshape,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.UpSampling2D,
    keras.layers.ZeroPadding1D,
    keras.layers.ZeroPadding2D,
)

_COMPUTING = (
    keras.layers.Activation,
    keras.layers.Add,
    keras.layers.AveragePooling1D,
    keras.layers.AveragePooling2D,
    keras.layers.Concatenate,
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.LeakyReLU,
    keras.layers.Multiply,
    keras.layers.ReLU,
    keras.layers.Rescaling,
    keras.layers.Softmax,
    keras.layers.Subtract,
)


def _make_twin(base):
    @functools.wraps(base.call)  # Keras reads the names of the arguments
    def call(self, inputs, *args, **kwargs):
        inputs = self.quantize_inputs(inputs)
        if _is_rectifier(self):
            return self.activate(inputs, keras.activations.relu)
        outputs = base.call(self, inputs, *args, **kwargs)
        return self.fake_quantize("output", outputs)

    name = f"Micro{base.__name__}"
    doc = f"A `{base.__name__}` layer with fake quantisers on inputs and output."
    body = {"call": call, "__doc__": doc, "__module__": __name__}
    cls = type(name, (Twin, base), body)
    keras.saving.register_keras_serializable("keras_micronets", name)(cls)
    cls.__name__ = base.__name__  # as the twins with kernels: weight files agree
    return cls


def _is_rectifier(layer):
    if isinstance(layer, keras.layers.ReLU):
        kind = (layer.negative_slope, layer.threshold, layer.max_value)
        return kind == (0, 0, None)
    activation = getattr(layer, "activation", None)
    return activation is keras.activations.relu


ACTIVATION_TWINS = {base: _make_twin(base) for base in (*PASS_THROUGH, *_COMPUTING)}
ACTIVATION_TWINS[keras.layers.BatchNormalization] = MicroBatchNormalization
