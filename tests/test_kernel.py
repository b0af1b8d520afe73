import keras
import numpy as np
import pytest
from model_cases import nested, sequential, shared

from keras_micronets.layers import kernels, prepare, sparsity


@pytest.fixture
def model():
    model = sequential()
    prepare(model)
    return model


def half(kernel):
    return np.arange(kernel.size).reshape(kernel.mask.shape) % 2 == 0


def test_handles_describe_kernels(model):
    conv, head = kernels(model)
    assert (conv.path, head.path) == ("conv", "head")
    assert (conv.size, head.size) == (3 * 3 * 3 * 4, 2 * 2 * 4 * 3)
    assert conv.weights.shape == conv.mask.shape == (3, 3, 3, 4)
    assert conv.mask.all()
    assert conv.sparsity == 0.0


def test_set_mask_writes_zeros(model):
    conv, head = kernels(model)
    before, untouched = conv.weights, head.weights
    conv.set_mask(half(conv))
    np.testing.assert_array_equal(conv.mask, half(conv))
    np.testing.assert_array_equal(conv.weights, np.where(half(conv), before, 0))
    np.testing.assert_array_equal(head.weights, untouched)
    assert conv.sparsity == 0.5


def test_restored_weights_are_zero(model):
    conv = kernels(model)[0]
    conv.set_mask(half(conv))
    conv.set_mask(np.ones(conv.mask.shape, bool))
    assert np.all(conv.weights[~half(conv)] == 0)
    assert conv.sparsity == 0.0


def test_rejects_a_mask_of_another_shape(model):
    with pytest.raises(ValueError, match="shape"):
        kernels(model)[0].set_mask(np.ones((2, 2), bool))


def test_sparsity_counts_weights(model):
    conv, head = kernels(model)
    head.set_mask(np.zeros(head.mask.shape, bool))
    assert sparsity(model) == pytest.approx(head.size / (head.size + conv.size))


def test_sparsity_of_a_plain_model():
    assert sparsity(sequential()) == 0.0
    assert kernels(sequential()) == []


def test_every_kernel_once():
    for make, names in ((shared, ["shared", "head"]), (nested, None)):
        model = make()
        prepare(model)
        found = [kernel.path for kernel in kernels(model)]
        assert len(set(found)) == len(found)
        assert names is None or sorted(found) == sorted(names)


def test_kernels_of_nested_models_are_in_the_order_of_the_summary():
    def block(*names):
        dense = [keras.layers.Dense(3, name=name) for name in names]
        return keras.Sequential([keras.Input((3,)), *dense])

    class Wrapped(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.first = keras.layers.Dense(3, name="e")
            self.second = keras.layers.Dense(3, name="f")

        def call(self, inputs):
            return self.second(self.first(inputs))

    stem, head = keras.layers.Dense(3, name="a"), keras.layers.Dense(2, name="g")
    model = keras.Sequential(
        [keras.Input((4,)), stem, block("b"), block("c", "d"), Wrapped(), head]
    )
    prepare(model)
    assert [kernel.path for kernel in kernels(model)] == list("abcdefg")


def test_layer_with_two_kernels_names_both():
    layers = [keras.Input((6, 6, 2)), keras.layers.SeparableConv2D(3, 3, name="two")]
    model = keras.Sequential(layers)
    prepare(model)
    paths = [kernel.path for kernel in kernels(model)]
    assert paths == ["two/depthwise_kernel", "two/pointwise_kernel"]
    kernels(model)[0].set_mask(np.zeros((3, 3, 2, 1), bool))
    assert [kernel.sparsity for kernel in kernels(model)] == [1.0, 0.0]
