"""Small random networks: sums, concatenations, gates, shared layers, nested models."""

import keras
from keras import layers

SHAPE = (8, 8, 3)


class GraphMaker:
    """Adds one layer after the other to tensors `(8, 8, channels)`."""

    def __init__(self, rng):
        self.rng = rng
        self.shared = []

    def make(self):
        inputs = keras.Input(SHAPE)
        tensors = [self.convolution(inputs)]
        for _ in range(self.rng.integers(2, 8)):
            tensors.append(self.step(tensors))
        last = tensors[-1]
        if self.rng.random() < 0.5:
            last = layers.Concatenate()([last, self.pick(tensors)])
        outputs = [self.head(last)]
        if self.rng.random() < 0.2:
            outputs.append(self.head(self.pick(tensors)))
        return keras.Model(inputs, outputs)

    def pick(self, tensors):
        return tensors[self.rng.integers(len(tensors))]

    def step(self, tensors):
        x = self.pick(tensors[-3:])
        steps = (
            self.convolution,
            self.normalize,
            self.activate,
            self.depthwise,
            self.gate,
            self.call_shared,
            self.inner,
            self.grouped,
            lambda x: self.add(x, tensors),
            lambda x: self.join(x, tensors),
            lambda x: layers.AveragePooling2D(3, 1, padding="same")(x),
        )
        return steps[self.rng.integers(len(steps))](x)

    def width(self):
        return int(self.rng.choice([4, 6, 8]))

    def convolution(self, x, filters=None):
        size = int(self.rng.choice([1, 3]))
        filters = filters or self.width()
        return layers.Conv2D(filters, size, padding="same")(x)

    def normalize(self, x):
        return layers.BatchNormalization(scale=bool(self.rng.random() < 0.8))(x)

    def activate(self, x):
        names = ["relu", "sigmoid", "tanh", "gelu", "softplus"]
        if self.rng.random() < 0.3:
            return keras.ops.maximum(x, 0.1 * x) + 0.5
        return layers.Activation(str(self.rng.choice(names)))(x)

    def depthwise(self, x):
        if self.rng.random() < 0.5:
            return layers.SeparableConv2D(self.width(), 3, padding="same")(x)
        multiplier = int(self.rng.integers(1, 3))
        return layers.DepthwiseConv2D(3, padding="same", depth_multiplier=multiplier)(x)

    def grouped(self, x):
        channels = x.shape[-1]
        groups = channels if self.rng.random() < 0.5 else 2 - channels % 2
        return layers.Conv2D(2 * channels, 3, padding="same", groups=groups)(x)

    def gate(self, x):
        channels = x.shape[-1]
        gate = layers.GlobalAveragePooling2D()(x)
        gate = layers.Dense(channels, "sigmoid")(layers.Dense(4, "relu")(gate))
        return layers.Multiply()([x, layers.Reshape((1, 1, channels))(gate)])

    def call_shared(self, x):
        for layer in self.shared:
            if layer.input_spec.axes[-1] == x.shape[-1]:
                return layer(x)
        self.shared.append(layers.Conv2D(self.width(), 3, padding="same"))
        return self.shared[-1](x)

    def inner(self, x):
        inputs = keras.Input(x.shape[1:])
        model = keras.Model(inputs, self.activate(self.convolution(inputs)))
        return model(x)

    def add(self, x, tensors):
        other = self.pick(tensors)
        if other.shape[-1] != x.shape[-1]:
            other = self.convolution(other, x.shape[-1])
        merge = [layers.Add, layers.Subtract, layers.Maximum, layers.Average]
        return merge[self.rng.integers(len(merge))]()([x, other])

    def join(self, x, tensors):
        return layers.Concatenate()([x, self.pick(tensors)])

    def head(self, x):
        if self.rng.random() < 0.5:
            x = layers.Flatten()(layers.MaxPooling2D(2)(x))
        else:
            x = layers.GlobalAveragePooling2D()(x)
        return layers.Dense(4)(x)
