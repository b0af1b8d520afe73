"""Random networks for cuts: parts of channels, recurrent layers, attention.

Also functions that depend on the places of channels, and layers that read a width.
"""

import keras
import numpy as np
from keras import layers

from benchmarks.lib.random_graphs import GraphMaker


def random_graph(seed):
    """Return a model of random structure, the same for a seed."""
    return CutMaker(np.random.default_rng(seed)).make()


class CutMaker(GraphMaker):
    """Adds what may be cut in part, or not at all."""

    def step(self, tensors):
        x = self.pick(tensors[-3:])
        steps = (
            self.split,
            self.shuffle,
            self.pad,
            self.repeat,
            self.draw,
            self.recur,
            self.attend,
            self.place,
            lambda x: WidthReader()(x),
        )
        if self.rng.random() < 0.6:
            return super().step(tensors)
        y = steps[self.rng.integers(len(steps))](x)
        return x if None in y.shape[1:] else y  # of some, Keras infers no shape

    def split(self, x):
        """Return one convolved part of the channels beside others."""
        width = x.shape[-1]
        at = int(self.rng.integers(1, width))
        if self.rng.random() < 0.5:
            first, second = keras.ops.split(x, [at], axis=-1)
        else:
            first, second = x[..., :at], x[..., int(self.rng.integers(at + 1)) :]
        return keras.ops.concatenate([self.convolution(first), second], axis=-1)

    def shuffle(self, x):
        *sides, width = x.shape[1:]
        groups = 2 if width % 2 == 0 else 1
        x = layers.Reshape((*sides, groups, width // groups))(x)
        return layers.Reshape((*sides, width))(layers.Permute((1, 2, 4, 3))(x))

    def pad(self, x):
        before, after = (int(n) for n in self.rng.integers(0, 4, 2))
        value = float(self.rng.choice([0.0, 0.5]))
        widths = [[0, 0], [0, 0], [0, 0], [before, after]]
        return keras.ops.pad(x, widths, constant_values=value)

    def repeat(self, x):
        if x.shape[-1] > 12:  # which would grow without bound
            return keras.ops.flip(x, axis=-1)
        if self.rng.random() < 0.5:
            return keras.ops.tile(x, (1, 1, 1, 2))
        return keras.ops.repeat(x, 2, axis=-1)

    def draw(self, x):
        """Return an image of the units of a dense layer."""
        filters = self.width()
        x = layers.Dense(16 * filters)(layers.GlobalAveragePooling2D()(x))
        return layers.UpSampling2D(2)(layers.Reshape((4, 4, filters))(x))

    def as_steps(self, x):
        x = layers.AveragePooling2D(2)(x)
        return layers.Reshape((16, x.shape[-1]))(x)

    def recur(self, x):
        cls = (layers.SimpleRNN, layers.GRU, layers.LSTM)[self.rng.integers(3)]
        layer = cls(self.width(), return_sequences=True)
        if self.rng.random() < 0.5:
            mode = str(self.rng.choice(["concat", "sum", "mul"]))
            layer = layers.Bidirectional(layer, merge_mode=mode)
        x = layer(self.as_steps(x))
        return layers.UpSampling2D(2)(layers.Reshape((4, 4, x.shape[-1]))(x))

    def attend(self, x):
        x = self.as_steps(x)
        n_heads, size = (int(n) for n in self.rng.integers(2, 5, 2))
        y = layers.MultiHeadAttention(n_heads, size)(x, x)
        x = layers.Add()([x, y])
        return layers.UpSampling2D(2)(layers.Reshape((4, 4, x.shape[-1]))(x))

    def place(self, x):
        """Apply a function that treats channels by their places."""
        width = x.shape[-1]
        functions = (
            lambda x: x * keras.ops.arange(1.0, width + 1),
            lambda x: keras.ops.concatenate([x[..., :1] + 1, x[..., 1:]], axis=-1),
            lambda x: keras.ops.cumsum(x, axis=-1),
            lambda x: x + keras.ops.flip(x, axis=-1),
            lambda x: x - keras.ops.roll(x, 1, axis=-1),
        )
        return functions[self.rng.integers(len(functions))](x)


@keras.saving.register_keras_serializable("benchmarks")
class WidthReader(keras.layers.Layer):
    """Divides by the number of channels that it was built with."""

    def build(self, input_shape):
        self.width = input_shape[-1]

    def call(self, inputs):
        return inputs / self.width
