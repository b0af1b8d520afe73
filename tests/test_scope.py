import json
import re

import keras
import pytest
from model_cases import sequential

from benchmarks.lib.nets import ds_cnn
from keras_micronets.callbacks import prune
from keras_micronets.layers import MicroDense, Scope, kernels, prepare, sparsity


@pytest.fixture
def model():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            keras.layers.Conv2D(4, 3, name="conv_1"),
            keras.layers.DepthwiseConv2D(3, name="depthwise"),
            keras.layers.SeparableConv2D(4, 3, name="separable"),
            keras.layers.Conv2D(4, 1, name="conv_2"),
            keras.layers.Flatten(),
            keras.layers.Dense(3, name="head"),
        ]
    )
    prepare(model)
    return model


ALL = [
    "conv_1",
    "depthwise",
    "separable/depthwise_kernel",
    "separable/pointwise_kernel",
    "conv_2",
    "head",
]
SEPARABLE = ALL[2:4]


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        (Scope(), ALL[:-1]),  # the last layer has 48 of 224 weights, the first 72
        (Scope(last=True), ALL),
        (Scope(small=False), ["conv_1"]),
        (Scope(first=True, last=True, small=True), ALL),
        (Scope("conv_1"), ["conv_1"]),
        (Scope("separable"), SEPARABLE),
        (Scope("separable/pointwise_kernel"), SEPARABLE[1:]),
        (Scope(re.compile("^conv_")), ["conv_1", "conv_2"]),
        (Scope(re.compile("depthwise")), ["depthwise", SEPARABLE[0]]),
        (Scope(keras.layers.Dense), ["head"]),
        (Scope(keras.layers.Conv2D), ["conv_1", "conv_2"]),
        pytest.param(
            Scope(lambda layer: layer.name < "d"), ["conv_1", "conv_2"], id="function"
        ),
        (Scope(["head", re.compile("1$")]), ["conv_1", "head"]),
        (Scope(without=["separable", keras.layers.Conv2D]), ["depthwise"]),
        (Scope(keras.layers.Conv2D, "conv_2"), ["conv_1"]),
        (Scope(first=False), ALL[1:-1]),
        (Scope(last=False), ALL[:-1]),
        (Scope(without="separable", first=False, last=False), ["depthwise", "conv_2"]),
        (Scope(("conv_1", "conv_2"), first=False), ["conv_2"]),
    ],
    ids=str,
)
def test_chosen_kernels(model, scope, expected):
    assert [kernel.path for kernel in scope(model)] == expected
    assert set(scope(model)) <= set(kernels(model))


def test_the_first_layer_includes_all_its_kernels():
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.SeparableConv2D(3, 3),
            keras.layers.Conv2D(2, 2, name="conv"),
        ]
    )
    prepare(model)
    assert [kernel.path for kernel in Scope(first=False)(model)] == ["conv"]


@pytest.mark.parametrize(
    ("scope", "error", "message"),
    [
        (Scope("hed"), ValueError, "depthwise.*Received: 'hed'"),
        (Scope(without=["conv_1", "hed"]), ValueError, "Received: 'hed'"),
        (Scope(re.compile("x")), ValueError, "conv_1, depthwise.*re.compile"),
        (Scope(keras.layers.Dense, last=False), ValueError, "last=False"),
        (Scope(3), TypeError, "Received: 3"),
    ],
)
def test_scopes_that_choose_nothing_are_rejected(model, scope, error, message):
    with pytest.raises(error, match=message):
        scope(model)


def test_a_plain_model_is_rejected():
    with pytest.raises(ValueError, match="are none"):
        Scope()(sequential())


def stack(*sizes, n_inputs=32):
    """Return a prepared model of Dense layers, named by their numbers."""
    model = keras.Sequential([keras.Input((n_inputs,))])
    for index, size in enumerate(sizes):
        model.add(keras.layers.Dense(size, name=str(index)))
    prepare(model)
    return model


def chosen(model, scope=None):
    return [kernel.path for kernel in (scope or Scope())(model)]


@pytest.mark.parametrize(
    ("sizes", "n_inputs", "expected"),
    [
        ((10,), 32, ["0"]),
        ((128, 10), 64, ["0"]),  # the last layer has 14 % of the weights
        ((16, 16), 16, ["0", "1"]),
        ((64, 64, 64, 10), 16, ["1", "2"]),  # the first layer has 10 %
        ((64, 64, 10), 64, ["0", "1"]),  # 46 %
        ((32, 4), 3, ["0", "1"]),  # three weights an output, but 43 % of all
        ((32, 8, 64, 64, 4), 32, ["1", "3"]),  # layer 2: eight weights an output
    ],
)
def test_the_default_leaves_out_small_shares(sizes, n_inputs, expected):
    assert chosen(stack(*sizes, n_inputs=n_inputs)) == expected


def test_depthwise_kernels_are_small_at_any_size():
    model = keras.Sequential(
        [
            keras.Input((12, 12, 8)),
            keras.layers.Conv2D(16, 3, name="first"),
            keras.layers.SeparableConv2D(32, 5, name="separable"),
            keras.layers.DepthwiseConv2D(5, name="depthwise"),
            keras.layers.Conv2D(64, 1, name="conv"),
            keras.layers.Conv2D(64, 1, name="next"),
            keras.layers.Flatten(),
            keras.layers.Dense(3, name="last"),
        ]
    )
    prepare(model)
    assert chosen(model) == ["separable/pointwise_kernel", "conv", "next"]


def test_the_default_prunes_the_pointwise_kernels_of_a_keyword_net():
    model = ds_cnn()
    prepare(model)
    assert sum(kernel.size for kernel in kernels(model)) == 9056
    assert [kernel.size for kernel in Scope()(model)] == [32 * 48, 48 * 48, 48 * 48]
    prune(model, 0.8, allocation="global")
    assert sparsity(model) == pytest.approx(0.8 * 6144 / 9056, abs=1e-3)


def test_layers_that_are_not_trained_are_left_out():
    model = stack(64, 64, 64, 10)
    model.get_layer("1").trainable = False
    assert chosen(model) == ["0", "2"]
    assert Scope().frozen_layers(model) == ["1"]
    assert chosen(model, Scope(frozen=True)) == ["1", "2"]
    assert Scope(frozen=True).frozen_layers(model) == []
    with pytest.raises(ValueError, match="not trained: 1"):
        Scope("1")(model)
    outer = keras.Sequential([keras.Input((32,)), model, keras.layers.Dense(10)])
    model.trainable = False
    prepare(outer)
    assert chosen(outer) == [outer.layers[-1].name]
    model.get_layer("2").trainable = True  # Keras trains it although its parent is not
    assert chosen(outer) == ["2"]


def test_configurations_of_earlier_versions_choose_the_same_kernels(model):
    earlier = {"only": None, "without": "depthwise", "first": True, "last": True}
    scope = Scope.from_config(earlier)
    assert [kernel.path for kernel in scope(model)] == [ALL[0], *ALL[2:]]


@pytest.mark.parametrize(
    "scope",
    [
        Scope("head", first=False),
        Scope(["head", re.compile("1$", re.IGNORECASE)]),
        Scope(without=[keras.layers.Dense, MicroDense], last=False),
    ],
    ids=str,
)
def test_it_is_restored_from_its_configuration_and_repr(scope):
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(scope)))
    assert keras.saving.deserialize_keras_object(config) == scope
    assert eval(repr(scope)) == scope
