import json
import re

import keras
import pytest
from model_cases import sequential

from keras_micronets.layers import MicroDense, Scope, kernels, prepare


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
        (Scope(), ALL),
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
        (Scope(without=["separable", keras.layers.Conv2D]), ["depthwise", "head"]),
        (Scope(keras.layers.Conv2D, "conv_2"), ["conv_1"]),
        (Scope(first=False), ALL[1:]),
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
