"""Small models of all structures whose channels can be cut, and their references."""

import keras
import numpy as np
from keras import layers, ops

from keras_micronets.channels import channel_graph

SHAPE = (8, 8, 3)


def conv(x, filters=8, size=3, **kwargs):
    return layers.Conv2D(filters, size, padding="same", **kwargs)(x)


def normalized(x):
    return layers.ReLU()(layers.BatchNormalization()(x))


def head(x):
    return layers.Dense(4)(layers.GlobalAveragePooling2D()(x))


def plain(x):
    x = normalized(conv(x, 16, use_bias=False))
    return head(normalized(conv(layers.MaxPooling2D()(x), 12)))


def flattened(x):
    return layers.Dense(4)(layers.Dropout(0.5)(layers.Flatten()(conv(x, 6))))


def residual(x):
    x = normalized(conv(x))
    return head(normalized(layers.Add()([x, conv(normalized(conv(x, 12)))])))


def excited(x):
    """Squeeze and excite, with a Reshape that names the number of channels."""
    x = conv(x, 8, activation="sigmoid")
    gate = layers.Reshape((1, 1, 8))(layers.GlobalAveragePooling2D()(x))
    gate = conv(conv(gate, 4, 1, activation="relu"), 8, 1, activation="sigmoid")
    return head(layers.Multiply()([x, gate]))


def dense_block(x):
    x = conv(x)
    for _ in range(2):
        x = layers.Concatenate()([x, conv(normalized(x), 4)])
    return head(conv(x))


def sum_of_joined(x):
    """Some channels of one kernel are tied to those of another, some to a third's."""
    joined = layers.Concatenate()([conv(x, 4), conv(x, 6)])
    return head(conv(layers.Add()([joined, conv(x, 10)])))


def depthwise(x):
    x = layers.DepthwiseConv2D(3, depth_multiplier=2)(conv(x))
    return head(layers.SeparableConv2D(6, 3, depth_multiplier=2)(layers.ReLU()(x)))


def grouped(x):
    x = conv(conv(x), 12, groups=4)
    return head(conv(conv(x, 12, 1), 24, groups=12))


def transposed(x):
    x = layers.Conv2DTranspose(6, 3, strides=2)(conv(x))
    return head(layers.UpSampling2D()(layers.ZeroPadding2D()(x)))


def shared(x):
    layer = layers.Conv2D(8, 3, padding="same")
    x = conv(x)
    return head(conv(layers.Average()([layer(x), layer(layer(x))])))


def nested(x):
    inputs = keras.Input((6, 6, 8))
    inner = keras.Model(inputs, [conv(inputs, 6), conv(inputs, 8)])
    chain = keras.Sequential([layers.Conv2D(8, 3), layers.BatchNormalization()])
    first, second = inner(chain(conv(x)))
    return head(layers.Concatenate()([first, layers.ReLU()(second)]))


def arithmetic(x):
    x = conv(x)
    x = ops.maximum(x * 0.5 + 1.0, 0.1 * x) - ops.tanh(conv(x))
    return head(conv(ops.concatenate([x, ops.abs(x) / 2.0], axis=-1)))


def permuted(x):
    """As in a mixer: one kernel along positions, one along channels."""
    x = layers.Reshape((64, 8))(conv(x))
    y = layers.Permute((2, 1))(x)
    y = layers.Permute((2, 1))(layers.Dense(64)(layers.Dense(12)(y)))
    x = layers.Dense(8)(layers.Dense(16)(layers.Add()([x, y])))
    return layers.Dense(4)(layers.GlobalAveragePooling1D()(x))


def einsums(x):
    x = layers.Reshape((64, 8))(conv(x))
    x = layers.EinsumDense("abc,cde->abde", (64, 3, 6), bias_axes="de")(x)
    x = layers.EinsumDense("abde,def->abf", (64, 8))(layers.PReLU(shared_axes=[1])(x))
    return layers.Dense(4)(layers.GlobalAveragePooling1D()(x))


def series(x):
    x = layers.Reshape((64, 3))(x)
    x = layers.SeparableConv1D(8, 3)(layers.Conv1D(10, 5)(x))
    x = layers.DepthwiseConv1D(3)(layers.Conv1DTranspose(6, 3)(x))
    return layers.Dense(4)(layers.Flatten()(layers.AveragePooling1D(2)(x)))


def volumes(x):
    x = layers.Conv3D(6, 3)(layers.Reshape((8, 8, 3, 1))(x))
    x = layers.Conv3DTranspose(8, 2)(layers.PReLU()(x))
    return layers.Dense(4)(layers.GlobalMaxPooling3D()(x))


def split(x):
    """Parts of channels, as in CSP and GhostNet, and a shortcut with new channels."""
    x = conv(x, 12)
    first, second = ops.split(x, 2, axis=-1)
    x = ops.concatenate([conv(first, 6), second, x[..., 2:5]], axis=-1)
    padded = ops.pad(conv(x, 5), [[0, 0], [0, 0], [0, 0], [1, 2]])
    return head(conv(layers.Add()([padded, conv(x, 8)])))


def shuffled(x):
    """As in ShuffleNet, and channels that are reversed and repeated."""
    x = layers.Reshape((8, 8, 2, 6))(conv(x, 12))
    x = layers.Reshape((8, 8, 12))(layers.Permute((1, 2, 4, 3))(x))
    x = ops.flip(conv(x, 6, groups=2), axis=-1)
    return head(
        conv(ops.tile(x, (1, 1, 1, 2)) + ops.repeat(conv(x), 2, axis=-1)[..., :12])
    )


def drawn(x):
    """As in a generator: units become the channels of an image."""
    x = layers.Reshape((4, 4, 6))(layers.Dense(96)(layers.Flatten()(conv(x))))
    return head(layers.Conv2DTranspose(6, 3)(layers.ReLU()(x)))


def recurrent(x):
    x = layers.LSTM(8, return_sequences=True)(layers.Reshape((8, 24))(x))
    x = layers.Bidirectional(layers.GRU(6, return_sequences=True))(x)
    return layers.Dense(4)(layers.SimpleRNN(5)(x))


def attention(x):
    x = layers.Dense(12)(layers.Reshape((64, 3))(x))
    x = layers.Add()([x, layers.MultiHeadAttention(4, 3)(x, x)])
    x = layers.Add()([x, layers.Dense(12)(layers.Dense(16, "gelu")(x))])
    return layers.Dense(4)(layers.GlobalAveragePooling1D()(x))


def several(x):
    x = conv(x)
    return [head(conv(x, 6)), layers.Softmax()(head(normalized(x)))]


MODELS = {
    build.__name__.replace("_", " "): build
    for build in (
        *(plain, flattened, residual, excited, dense_block, sum_of_joined, depthwise),
        *(grouped, transposed, shared, nested, arithmetic, permuted, einsums, series),
        *(volumes, split, shuffled, drawn, recurrent, attention, several),
    )
}


def build_model(build, seed=0, shape=SHAPE):
    """Return the model that `build` makes from an input, with random values."""
    keras.utils.clear_session(free_memory=False)  # the same names each time
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(shape)
    model = keras.Model(inputs, build(inputs))
    randomize(model, seed)
    return model


def randomize(model, seed=0):
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        name = weight.path.rpartition("/")[2]
        if name == "moving_variance":
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif name == "gamma":  # negative ones, too
            weight.assign(rng.uniform(0.5, 1.5, weight.shape) * rng.choice([-1, 1]))
        elif "kernel" not in name:
            weight.assign(rng.normal(0, 0.5, weight.shape))


def images(n=8, shape=SHAPE):
    return np.random.default_rng(5).normal(0, 1, (n, *shape)).astype("float32")


def zeroed(model, plan):
    """Return a copy with zeros where kernels read channels that a plan leaves out."""
    graph = channel_graph(model)
    keep = plan.kept_channels(graph)
    copy = keras.models.clone_model(model)
    values = {id(v): ops.convert_to_numpy(v).copy() for v in model.variables}
    for node in graph.nodes:
        if node.role == "reads":
            values[id(node.weight)] *= node.broadcast(keep[node.channels])
    for ours, theirs in zip(copy.variables, model.variables, strict=True):
        ours.assign(values[id(theirs)])
    return copy


def outputs(model, x):
    tensors = keras.tree.flatten(model(x, training=False))
    return [ops.convert_to_numpy(y) for y in tensors]
