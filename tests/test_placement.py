import keras
import pytest
from keras import ops
from model_cases import nested, residual, sequential, shared, subclassed

from keras_micronets.layers import prepare
from keras_micronets.layers.placement import place_quantizers


def placed(model):
    return {
        layer.name: set(spec.names)
        for layer, spec in place_quantizers(model).quantizers.items()
        if spec
    }


def chain(*layers, shape=(8, 8, 4)):
    inputs = x = keras.Input(shape)
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x)


def conv(name="conv", **kwargs):
    return keras.layers.Conv2D(4, 3, padding="same", name=name, **kwargs)


def test_residual_network():
    """None inside conv-BN-ReLU, none between addition and rectifier."""
    assert placed(residual()) == {
        "conv1": {"kernel", "input_0"},
        "relu1": {"output"},
        "conv2": {"kernel"},
        "bn2": {"output"},
        "relu2": {"output"},
        "mean": {"output"},
        "head": {"kernel", "preactivation", "output"},
    }


def test_layers_that_only_move_values_have_none():
    assert placed(sequential()) == {
        "conv": {"kernel", "input_0"},
        "relu": {"output"},
        "head": {"kernel", "preactivation", "output"},
    }


def test_inner_model_reads_what_the_outer_one_quantised():
    assert placed(nested()) == {
        "stem": {"kernel", "input_0", "output"},
        "depthwise": {"kernel"},
        "relu": {"output"},
        "head": {"kernel", "output"},
    }


def test_inner_model_at_the_input():
    inner = chain(conv("inner_conv"))
    inputs = keras.Input((8, 8, 4))
    outputs = conv("outer_conv")(inner(inputs))
    found = placed(keras.Model(inputs, outputs))
    assert {"kernel", "input_0"} <= found["inner_conv"]
    assert found["outer_conv"] == {"kernel", "output"}


def test_each_call_of_a_layer_has_quantisers():
    assert placed(shared()) == {
        "shared": {"kernel", "input_0", "output", "call_2_output"},
        "head": {"kernel", "output"},
    }


def test_subclassed_model_has_no_graph():
    assert placed(subclassed()) == {
        "conv": {"kernel", "input_0", "output"},
        "head": {"kernel", "input_0", "output"},
    }


@pytest.mark.parametrize(
    "rectifier",
    [
        keras.layers.ReLU(name="after"),
        keras.layers.ReLU(max_value=6, name="after"),
        keras.layers.Activation("relu", name="after"),
        keras.layers.Activation("relu6", name="after"),
    ],
)
def test_rectifiers_fuse(rectifier):
    found = placed(chain(conv(), rectifier))
    assert found == {"conv": {"kernel", "input_0"}, "after": {"output"}}


@pytest.mark.parametrize(
    "activation",
    [
        keras.layers.ReLU(negative_slope=0.1, name="after"),
        keras.layers.ReLU(max_value=3, name="after"),
        keras.layers.ReLU(threshold=1, name="after"),
        keras.layers.LeakyReLU(name="after"),
        keras.layers.Activation("tanh", name="after"),
        keras.layers.Softmax(name="after"),
    ],
)
def test_other_activations_do_not_fuse(activation):
    found = placed(chain(conv(), activation))
    assert found == {"conv": {"kernel", "input_0", "output"}, "after": {"output"}}


def test_rectified_convolution_does_not_fuse_with_normalisation():
    norm = keras.layers.BatchNormalization(name="bn")
    found = placed(chain(conv(activation="relu"), norm))
    assert found == {"conv": {"kernel", "input_0", "output"}, "bn": {"output"}}


def test_tensor_with_two_readers_is_quantised_where_it_is_made():
    inputs = keras.Input((8, 8, 4))
    x = conv()(inputs)
    sum_ = keras.layers.Add(name="add")([keras.layers.ReLU(name="relu")(x), x])
    assert placed(keras.Model(inputs, sum_)) == {
        "conv": {"kernel", "input_0", "output"},
        "relu": {"output"},
        "add": {"output"},
    }


@pytest.mark.parametrize("limits", [(None, None), (6, 6), (None, 6)])
def test_equal_rectifiers_fuse_together(limits):
    """The converter makes one of them; of unlike ones it makes two operations."""
    inputs = keras.Input((8, 8, 4))
    x = conv()(inputs)
    both = [keras.layers.ReLU(max_value=limit)(x) for limit in limits]
    model = keras.Model(inputs, keras.layers.Add()(both))
    found = placed(model)["conv"]
    assert found - {"output"} == {"kernel", "input_0"}
    assert ("output" in found) == (limits[0] != limits[1])


def test_model_output_in_the_middle_of_a_chain_is_quantised():
    inputs = keras.Input((8, 8, 4))
    x = conv()(inputs)
    model = keras.Model(inputs, [x, keras.layers.ReLU(name="relu")(x)])
    assert placed(model)["conv"] == {"kernel", "input_0", "output"}


def test_each_reader_of_an_input_quantises_it():
    inputs = keras.Input((8, 8, 4))
    x = keras.layers.Add(name="add")([inputs, conv()(inputs)])
    assert placed(keras.Model(inputs, x)) == {
        "conv": {"kernel", "input_0", "output"},
        "add": {"input_0", "output"},
    }


def test_operations_are_quantised_as_layers_are():
    inputs = keras.Input((8, 8, 4))
    x = ops.add(ops.multiply(conv("before")(inputs), 2.0), 1.0)
    model = keras.Model(inputs, conv("after")(ops.relu(ops.reshape(x, (-1, 8, 8, 4)))))
    assert placed(model) == {
        "before": {"kernel", "input_0", "output"},
        "multiply": {"output"},
        "add": {"output"},
        "relu": {"output"},
        "after": {"kernel", "output"},
    }
    report = prepare(model, quantize=True)
    assert report.floating == ()
    assert {*report.prepared} == {layer.name for layer in model.layers[1:]}


def test_operations_of_integers_and_booleans_are_not_quantised():
    tokens = keras.Input((8,), dtype="int32")
    x = keras.layers.Embedding(5, 4, name="embedding")(tokens[:, 1:] * 2)
    x = ops.where(x > 0, x, keras.layers.Dense(4, name="dense")(x))
    assert placed(keras.Model(tokens, x)) == {
        "embedding": {"output"},
        "dense": {"kernel", "output"},
    }


def test_layer_without_micro_layer_is_reported():
    norm = keras.layers.LayerNormalization(name="norm")
    model = chain(conv("before"), norm, conv("after"))
    assert placed(model)["after"] == {"kernel", "input_0", "output"}
    assert place_quantizers(model).floating == (
        "norm (LayerNormalization): no quantised micro layer",
    )


def attention(x):
    return keras.layers.MultiHeadAttention(2, 3, name="attention")(x, x)


def test_kernels_within_a_layer_without_micro_layer_are_quantised():
    model = chain(keras.layers.Reshape((16, 16)), attention)
    found = placed(model)
    everything = {"kernel", "input_0", "output"}
    assert found == dict.fromkeys(
        ("query", "key", "value", "attention_output"), everything
    ) | {
        "reshape": {"input_0"},
        "attention": {"scaled_query", "scores", "probabilities"},
    }
    assert not place_quantizers(model).floating


@pytest.mark.parametrize(
    "layers",
    [
        [conv(activation="relu")],
        [conv(), keras.layers.ReLU()],
        [conv(), keras.layers.Activation("tanh")],
    ],
)
def test_normalisation_after_an_activation_is_named(layers):
    norm = keras.layers.BatchNormalization(name="norm")
    model = chain(*[type(x).from_config(x.get_config()) for x in layers], norm)
    assert place_quantizers(model).unfused == ("norm",)
    assert prepare(model, quantize=True).unfused == ("norm",)


@pytest.mark.parametrize(
    "layers",
    [
        [conv(), keras.layers.BatchNormalization(), keras.layers.ReLU()],
        [conv(), keras.layers.MaxPooling2D(), keras.layers.BatchNormalization()],
        [keras.layers.ReLU(), keras.layers.BatchNormalization()],
    ],
)
def test_other_normalisations_are_not(layers):
    model = chain(*[type(x).from_config(x.get_config()) for x in layers])
    assert place_quantizers(model).unfused == ()


def test_separable_convolution_quantises_the_tensor_between_its_convolutions():
    layer = keras.layers.SeparableConv2D(4, 3, name="separable")
    model = chain(layer)
    prepare(model, quantize=True)
    assert set(layer.quantizers.names) == {"kernel", "input_0", "output"}
    assert "depthwise_quantizer" in layer.nested_states()


def test_same_placement_once_prepared():
    model = residual()
    before = placed(model)
    prepare(model, quantize=True)
    assert placed(model) == before


@pytest.mark.parametrize("dtype", ["int32", "float32"])
@pytest.mark.parametrize(
    "move", [keras.layers.Reshape((7,)), lambda x: ops.reshape(x, (-1, 7)), lambda x: x]
)
def test_indices_are_never_rounded(move, dtype):
    inputs = keras.Input((7, 1) if callable(move) else (7,), dtype=dtype)
    words = keras.layers.Embedding(12, 4, name="words")(move(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(words))
    found = placed(model)
    assert found["words"] == {"output"}
    assert set(found) == {"words", "head"}
    assert place_quantizers(model).floating == ()
