"""Which channels are cut together, and which are protected."""

import keras
import numpy as np
import pytest
from channel_cases import MODELS, build_model, conv, head, normalized
from keras import layers, ops

from keras_micronets.channels import channel_graph
from keras_micronets.layers import prepare


def prunable(model):
    return {group.name: len(group.channels) for group in channel_graph(model).prunable}


def reasons(model):
    return {g.name: g.reason for g in channel_graph(model).groups if g.reason}


def test_a_sequence_has_a_group_for_each_kernel():
    model = build_model(MODELS["plain"])
    assert prunable(model) == {"conv2d": 16, "conv2d_1": 12}
    assert reasons(model) == {
        "input of conv2d": "inputs, or of unknown origin",
        "dense": "the model returns them",
    }


def test_a_residual_sum_ties_its_inputs():
    assert prunable(build_model(MODELS["residual"])) == {
        "conv2d+conv2d_2": 8,
        "conv2d_1": 12,
    }


def test_channels_of_one_kernel_may_belong_to_two_groups():
    assert prunable(build_model(MODELS["sum of joined"])) == {
        "conv2d+conv2d_2": 4,
        "conv2d_1+conv2d_2": 6,
        "conv2d_3": 8,
    }


def test_a_flattened_channel_is_a_run_of_inputs():
    graph = channel_graph(build_model(MODELS["flattened"]))
    (group,) = graph.prunable
    (node,) = (n for n in graph.nodes if n.role == "reads" and n.layer.name == "dense")
    np.testing.assert_array_equal(node.channels, np.tile(group.channels, 64))


def test_convolution_groups_are_cut_alike():
    graph = channel_graph(build_model(lambda x: head(conv(conv(x), 12, groups=4))))
    by_name = {group.name: len(group.channels) for group in graph.prunable}
    assert by_name == {"conv2d": 2, "conv2d_1": 3}


def test_a_shared_layer_is_cut_for_all_its_calls():
    """It reads its own output, so both have the same channels."""
    assert prunable(build_model(MODELS["shared"])) == {
        "conv2d_1+conv2d": 8,
        "conv2d_2": 8,
    }


def test_channels_are_traced_out_of_a_nested_model():
    groups = channel_graph(build_model(MODELS["nested"])).prunable
    assert {len(group.channels) for group in groups} == {8, 6}


MIXES = {
    "Softmax": lambda x: layers.Softmax()(x),
    "UnitNormalization": lambda x: layers.UnitNormalization()(x),
    "reversed": layers.Lambda(lambda x: ops.flip(x, axis=-1)),
    "mean": layers.Lambda(lambda x: x - ops.mean(x, axis=-1, keepdims=True)),
    "array": layers.Lambda(lambda x: x * ops.arange(8, dtype="float32")),
    "Cumsum": lambda x: ops.cumsum(x, axis=-1),
    "steps": lambda x: x[..., ::2],
    "place": lambda x: x * x[..., 3, None],
    "chosen": lambda x: ops.take(x, [3, 1, 2], axis=-1),
    "roll": lambda x: ops.roll(x, 2, axis=-1),
    "edges": lambda x: ops.pad(x, [[0, 0], [0, 0], [0, 0], [1, 1]], mode="edge"),
    "masking": lambda x: layers.Concatenate()(
        [
            layers.GlobalAveragePooling2D()(x),
            layers.GlobalAveragePooling1D()(
                layers.Masking()(layers.Reshape((64, 8))(x))
            ),
        ]
    ),
    "all axes": lambda x: x * ops.max(x),
    "TimeDistributed": lambda x: layers.TimeDistributed(layers.Dense(3))(x),
    "RNN": lambda x: layers.RNN(layers.LSTMCell(3))(layers.Reshape((64, 8))(x)),
    "states": lambda x: layers.GRU(3)(
        layers.Reshape((64, 8))(x), initial_state=np.ones((1, 3), "float32")
    ),
    "gated attention": lambda x: layers.MultiHeadAttention(2, 3, use_gate=True)(
        *[layers.Reshape((64, 8))(x)] * 2
    ),
    "mask of heads": lambda x: layers.MultiHeadAttention(2, 3)(
        *[layers.Reshape((64, 8))(x)] * 2,
        attention_mask=np.ones((1, 2, 64, 64), "bool"),
    ),
    "states of directions": lambda x: layers.Concatenate()(
        layers.Bidirectional(layers.GRU(2, return_state=True))(
            layers.Reshape((64, 8))(x)
        )
    ),
    "stateful": lambda x: layers.SimpleRNN(3, stateful=True)(
        layers.Reshape((64, 8))(ops.reshape(x, (2, 8, 8, 8)))
    ),
    "merged batch": lambda x: ops.reshape(ops.reshape(x, (-1, 8)), (-1, 64, 8)),
    "AdditiveAttention": lambda x: layers.AdditiveAttention()(
        [layers.Reshape((64, 8))(x)] * 2
    ),
    "Dot": lambda x: layers.Dot(axes=-1)([x, x]),
    "MultiHeadAttention": lambda x: layers.MultiHeadAttention(1, 4)(x, x),
    "ConvLSTM1D": lambda x: layers.ConvLSTM1D(3, 3)(x),
}


@pytest.mark.parametrize("name", MIXES)
def test_operations_that_mix_channels_protect_them(name):
    model = build_model(
        lambda x: layers.Dense(4)(layers.Flatten()(MIXES[name](conv(x))))
    )
    assert prunable(model) == {}
    assert name.lower() in reasons(model)["conv2d"].lower() or name.islower()


# Functions that read a channel by its place, of all widths.
PLACES = {
    "first": lambda x: x * ops.sigmoid(x[..., :1]),
    "last": lambda x: x + x[..., -1:],
    "middle": lambda x: x * x[..., x.shape[-1] // 2, None],
    "halves": lambda x: ops.roll(x, x.shape[-1] // 2, axis=-1),
    "reversed": lambda x: ops.flip(x, axis=-1),
    "width": lambda x: x / x.shape[-1],
    "second": lambda x: x - x[..., 1:2],
    "pairs": lambda x: ops.reshape(
        ops.flip(ops.reshape(x, (-1, x.shape[-1] // 2, 2)), axis=-1), (-1, x.shape[-1])
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_functions_of_places_protect_all_channels(place):
    for width in (2, 4, 6, 8, 10, 16, 24, 32, 40, 48, 56, 64):
        inputs = keras.Input((3,))
        x = layers.Lambda(PLACES[place])(layers.Dense(width, name="wide")(inputs))
        model = keras.Model(inputs, layers.Dense(2)(x))
        assert prunable(model) == {}, width


@keras.saving.register_keras_serializable("tests")
class ByWidth(layers.Layer):
    """Scales by the number of channels that it is built for."""

    def build(self, shape):
        self.scale = shape[-1] ** -0.5

    def call(self, x):
        return x * self.scale


def test_a_width_that_is_read_when_built_protects_all_channels():
    model = build_model(lambda x: head(conv(ByWidth()(conv(x)))))
    assert prunable(model) == {"conv2d_1": 8}


APART = {
    "Lambda": lambda x: layers.Lambda(lambda y: ops.clip(2.0 * y - 1.0, -1.0, 3.0))(x),
    "gelu": lambda x: layers.Activation("gelu")(x),
    "noise": lambda x: layers.GaussianNoise(0.1)(x),
    "dropout": lambda x: layers.SpatialDropout2D(0.2)(x),
    "cropping": lambda x: layers.Cropping2D(1)(x),
    "bilinear": lambda x: layers.UpSampling2D(interpolation="bilinear")(x),
    "pooling": lambda x: layers.AveragePooling2D(2, padding="same")(x),
    "resizing": lambda x: layers.Resizing(5, 5)(x),
    "rescaling": lambda x: layers.Rescaling(2.0, 1.0)(x),
    "slice": lambda x: x[:, 1:-1],
    "mean": lambda x: ops.mean(x, axis=1, keepdims=True),
    "in inference": lambda x: layers.Dropout(0.5)(x, training=True),
}


@pytest.mark.parametrize("name", APART)
def test_operations_that_keep_channels_apart_pass_them_on(name):
    model = build_model(lambda x: head(conv(APART[name](conv(x)))))
    assert prunable(model) == {"conv2d": 8, "conv2d_1": 8}


def test_an_unknown_layer_with_weights_is_reported():
    @keras.saving.register_keras_serializable("tests")
    class Scaled(layers.Layer):
        def build(self, shape):
            self.by = self.add_weight(shape=(shape[-1],))

        def call(self, x):
            return x * self.by

    model = build_model(lambda x: head(conv(Scaled(name="scaled")(conv(x)))))
    graph = channel_graph(model)
    assert graph.unknown == {"scaled": "Scaled"}
    assert prunable(model) == {"conv2d_1": 8}
    assert reasons(model)["conv2d"] == "scaled (Scaled) reads them"


def test_a_gate_of_one_channel_protects_no_other():
    def build(x):
        x = conv(x)
        return head(conv(layers.Multiply()([x, conv(x, 1, activation="sigmoid")])))

    model = build_model(build)
    assert prunable(model) == {"conv2d": 8, "conv2d_2": 8}
    assert "repeats" in reasons(model)["conv2d_1"]


def test_a_reshape_of_an_operation_is_a_flattened_channel():
    model = build_model(lambda x: layers.Dense(4)(ops.reshape(conv(x), (-1, 512))))
    assert prunable(model) == {"conv2d": 8}


def test_a_normalisation_over_two_axes_keeps_the_channels_of_each():
    inputs = keras.Input((16, 8))
    x = layers.Permute((2, 1))(layers.Dense(8)(inputs))
    x = layers.Permute((2, 1))(layers.Dense(12)(x))
    x = layers.LayerNormalization(axis=[1, 2])(x)
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    assert len(channel_graph(model).groups) > 0


def test_channels_first():
    inputs = keras.Input((3, 8, 8))
    x = layers.Conv2D(6, 3, data_format="channels_first")(inputs)
    x = layers.BatchNormalization(axis=1)(x)
    x = layers.DepthwiseConv2D(3, data_format="channels_first")(x)
    x = layers.Flatten(data_format="channels_first")(x)
    graph = channel_graph(keras.Model(inputs, layers.Dense(4)(x)))
    (group,) = graph.prunable
    (node,) = (n for n in graph.nodes if n.role == "reads" and n.layer.name == "dense")
    np.testing.assert_array_equal(node.channels, np.tile(group.channels, 16))


@pytest.mark.parametrize(
    "name",
    [
        *("plain", "residual", "depthwise", "nested", "einsums"),
        *("split", "recurrent", "attention"),
    ],
)
@pytest.mark.parametrize("quantize", [False, True])
def test_preparation_does_not_change_the_groups(name, quantize):
    model = build_model(MODELS[name])
    before = prunable(model)
    prepare(model, quantize=quantize)
    assert prunable(model) == before


def test_a_subclassed_model_has_no_graph():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    model = Subclassed()
    model(np.zeros((1, 3), "float32"))
    with pytest.raises(ValueError, match="functional or sequential"):
        channel_graph(model)


def test_a_layer_normalization_keeps_its_channels_in_a_masked_model():
    model = build_model(
        lambda x: head(conv(layers.LayerNormalization()(normalized(conv(x)))))
    )
    assert set(prunable(model)) == {"conv2d", "conv2d_1"}


def test_layers_altered_by_keras_are_unknown():
    model = build_model(MODELS["plain"])
    model.get_layer("dense").enable_lora(2)
    assert prunable(model) == {"conv2d": 16}
