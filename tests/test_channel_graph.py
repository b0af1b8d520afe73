"""Which channels belong together, and which have to stay."""

import keras
import numpy as np
import pytest
from channel_cases import MODELS, conv, head, made, normalized
from keras import layers, ops

from keras_micronets.channels import channel_graph
from keras_micronets.layers import prepare


def free(model):
    return {group.name: len(group.channels) for group in channel_graph(model).prunable}


def reasons(model):
    return {g.name: g.reason for g in channel_graph(model).groups if g.reason}


def test_a_chain_has_a_group_for_each_kernel():
    model = made(MODELS["plain"])
    assert free(model) == {"conv2d": 16, "conv2d_1": 12}
    assert reasons(model) == {
        "input of conv2d": "inputs, or of unknown origin",
        "dense": "the model returns them",
    }


def test_a_residual_ties_what_it_adds():
    assert free(made(MODELS["residual"])) == {"conv2d+conv2d_2": 8, "conv2d_1": 12}


def test_channels_of_one_kernel_may_belong_to_two_groups():
    assert free(made(MODELS["sum of joined"])) == {
        "conv2d+conv2d_2": 4,
        "conv2d_1+conv2d_2": 6,
        "conv2d_3": 8,
    }


def test_a_flattened_channel_is_a_run_of_inputs():
    graph = channel_graph(made(MODELS["flattened"]))
    (group,) = graph.prunable
    (node,) = (n for n in graph.nodes if n.role == "reads" and n.layer.name == "dense")
    np.testing.assert_array_equal(node.channels, np.tile(group.channels, 64))


def test_groups_lose_the_same_of_their_channels():
    graph = channel_graph(made(lambda x: head(conv(conv(x), 12, groups=4))))
    by_name = {group.name: len(group.channels) for group in graph.prunable}
    assert by_name == {"conv2d": 2, "conv2d_1": 3}


def test_a_shared_layer_is_cut_for_all_its_calls():
    """It reads what it makes, so both have the same channels."""
    assert free(made(MODELS["shared"])) == {"conv2d_1+conv2d": 8, "conv2d_2": 8}


def test_what_a_nested_model_puts_out_goes_on_outside():
    groups = channel_graph(made(MODELS["nested"])).prunable
    assert {len(group.channels) for group in groups} == {8, 6}


MIXES = {
    "Softmax": lambda x: layers.Softmax()(x),
    "UnitNormalization": lambda x: layers.UnitNormalization()(x),
    "reversed": layers.Lambda(lambda x: ops.flip(x, axis=-1)),
    "mean": layers.Lambda(lambda x: x - ops.mean(x, axis=-1, keepdims=True)),
    "array": layers.Lambda(lambda x: x * ops.arange(8, dtype="float32")),
    "Cumsum": lambda x: ops.cumsum(x, axis=-1),
    "reshape": layers.Reshape((8, 8, 4, 2)),
    "Dot": lambda x: layers.Dot(axes=-1)([x, x]),
    "MultiHeadAttention": lambda x: layers.MultiHeadAttention(1, 4)(x, x),
    "ConvLSTM1D": lambda x: layers.ConvLSTM1D(3, 3)(x),
}


@pytest.mark.parametrize("kind", MIXES)
def test_what_mixes_channels_freezes_them(kind):
    model = made(lambda x: layers.Dense(4)(layers.Flatten()(MIXES[kind](conv(x)))))
    assert free(model) == {}
    assert kind.lower() in reasons(model)["conv2d"].lower() or kind.islower()


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
}


@pytest.mark.parametrize("kind", APART)
def test_what_leaves_channels_apart_lets_them_through(kind):
    model = made(lambda x: head(conv(APART[kind](conv(x)))))
    assert free(model) == {"conv2d": 8, "conv2d_1": 8}


def test_an_unknown_layer_with_weights_is_told_of():
    @keras.saving.register_keras_serializable("tests")
    class Scaled(layers.Layer):
        def build(self, shape):
            self.by = self.add_weight(shape=(shape[-1],))

        def call(self, x):
            return x * self.by

    model = made(lambda x: head(conv(Scaled(name="own")(conv(x)))))
    graph = channel_graph(model)
    assert graph.unknown == {"own": "Scaled"}
    assert free(model) == {"conv2d_1": 8}
    assert reasons(model)["conv2d"] == "own (Scaled) reads them"


def test_a_gate_of_one_channel_leaves_the_others_alone():
    def build(x):
        x = conv(x)
        return head(conv(layers.Multiply()([x, conv(x, 1, activation="sigmoid")])))

    model = made(build)
    assert free(model) == {"conv2d": 8, "conv2d_2": 8}
    assert "repeats" in reasons(model)["conv2d_1"]


def test_channels_may_come_first():
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
    "kind", ["plain", "residual", "depthwise", "nested", "einsums"]
)
@pytest.mark.parametrize("quantize", [False, True])
def test_promotion_changes_nothing(kind, quantize):
    model = made(MODELS[kind])
    before = free(model)
    prepare(model, quantize=quantize)
    assert free(model) == before


def test_a_subclassed_model_has_no_graph():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    model = Own()
    model(np.zeros((1, 3), "float32"))
    with pytest.raises(ValueError, match="functional or sequential"):
        channel_graph(model)


def test_a_layer_normalization_keeps_its_channels_in_a_masked_model():
    model = made(lambda x: head(conv(layers.LayerNormalization()(normalized(conv(x))))))
    assert set(free(model)) == {"conv2d", "conv2d_1"}


def test_layers_that_keras_has_altered_are_left_alone():
    model = made(MODELS["plain"])
    model.get_layer("dense").enable_lora(2)
    assert free(model) == {"conv2d": 16}
