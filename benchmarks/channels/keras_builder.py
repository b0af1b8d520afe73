"""Builds the networks of `hard_nets.py` with Keras.

A builder has a method for each layer; what it returns is called on tensors. Images are
`(height, width, channels)` here, `(channels, height, width)` in `torch_builder.py`.
"""

import keras
from keras import layers, ops


class KerasBuilder:
    """Builds with the functional API of Keras."""

    def image(self, channels=3, side=16):
        return keras.Input((side, side, channels))

    def sequence(self, steps=16, channels=6):
        return keras.Input((steps, channels))

    def model(self, inputs, outputs):
        return keras.Model(inputs, outputs)

    def conv(self, x, filters, size=3, stride=1, groups=1, dilation=1):
        options = {"padding": "same", "groups": groups, "dilation_rate": dilation}
        return layers.Conv2D(filters, size, stride, **options)

    def conv1d(self, x, filters, size=3, dilation=1):
        return layers.Conv1D(filters, size, padding="same", dilation_rate=dilation)

    def depthwise(self, x, size=3):
        return layers.DepthwiseConv2D(size, padding="same")

    def transposed(self, x, filters):
        return layers.Conv2DTranspose(filters, 2, 2)

    def norm(self, x):
        return layers.BatchNormalization(epsilon=1e-5)

    def layer_norm(self, x):
        return layers.LayerNormalization(epsilon=1e-5)

    def dense(self, x, units):
        return layers.Dense(units)

    def attention(self, x, heads):
        attend = layers.MultiHeadAttention(heads, x.shape[-1] // heads)
        return lambda x: attend(x, x)

    def recurrent(self, x, units, name):
        return getattr(layers, name)(units, return_sequences=True)

    def activate(self, x, name):
        return layers.Activation(name)(x)

    def add(self, x, y):
        return layers.Add()([x, y])

    def multiply(self, x, y):
        return layers.Multiply()([x, y])

    def distance(self, x, y):
        return ops.abs(ops.subtract(x, y))

    def join(self, tensors):
        return layers.Concatenate()(tensors)

    def halves(self, x):
        return ops.split(x, 2, axis=-1)

    def shuffle(self, x, groups):
        height, width, channels = x.shape[1:]
        x = layers.Reshape((height, width, groups, channels // groups))(x)
        x = layers.Permute((1, 2, 4, 3))(x)
        return layers.Reshape((height, width, channels))(x)

    def mean(self, x):
        return layers.GlobalAveragePooling2D(keepdims=True)(x)

    def mean_and_largest_channel(self, x):
        mean, largest = (f(x, axis=-1, keepdims=True) for f in (ops.mean, ops.amax))
        return self.join([mean, largest])

    def mean_step(self, x):
        return layers.GlobalAveragePooling1D()(x)

    def pool(self, x):
        return layers.MaxPooling2D(2)(x)

    def enlarge(self, x):
        return layers.UpSampling2D(2)(x)

    def flatten(self, x):
        return layers.Flatten()(x)

    def as_image(self, x, side):
        return layers.Reshape((side, side, x.shape[-1] // side**2))(x)

    def as_tokens(self, x):
        return layers.Reshape((x.shape[1] * x.shape[2], x.shape[3]))(x)
