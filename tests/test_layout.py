import keras
import numpy as np
import pytest

from keras_micronets.layers import kernels, prepare


def layout(layer, *shape, kernel=0):
    model = keras.Sequential([keras.Input(shape), layer])
    prepare(model)
    handle = kernels(model)[kernel]
    return handle, handle.layout


CASES = [
    (keras.layers.Dense(3), (5,), (5, 3)),
    (keras.layers.Conv1D(4, 3), (8, 2), (3, 2, 4)),
    (keras.layers.Conv2D(4, 3, groups=2), (8, 8, 2), (3, 3, 1, 4)),
    (keras.layers.Conv3D(4, 3), (5, 5, 5, 2), (3, 3, 3, 2, 4)),
    (keras.layers.Embedding(7, 4), (5,), (7, 4)),
    (keras.layers.DepthwiseConv2D(3, depth_multiplier=2), (8, 8, 5), (3, 3, 1, 10)),
    (keras.layers.SeparableConv2D(4, 3), (8, 8, 5), (3, 3, 1, 5)),
    (keras.layers.Conv2DTranspose(4, 3), (8, 8, 5), (3, 3, 5, 4)),
    (keras.layers.EinsumDense("abc,cde->abde", (None, 2, 3)), (4, 5), (5, 6)),
    (keras.layers.EinsumDense("abcd,cde->abe", (None, 3)), (4, 5, 6), (30, 3)),
    (keras.layers.EinsumDense("abc,dc->abd", (None, 3)), (4, 5), (5, 3)),
    (keras.layers.EinsumDense("abc,bcd->abd", (4, 3)), (4, 5), (5, 12)),
    (keras.layers.EinsumDense("...x,xy->...y", 3), (4, 5), (5, 3)),
]


@pytest.mark.parametrize(("layer", "shape", "expected"), CASES, ids=str)
def test_restore_inverts_canonical(layer, shape, expected):
    handle, found = layout(layer, *shape)
    assert found.shape == expected
    weights = handle.weights
    assert found.canonical(weights).shape == expected
    np.testing.assert_array_equal(found.restore(found.canonical(weights)), weights)


@pytest.mark.parametrize(("layer", "shape", "expected"), CASES, ids=str)
def test_the_last_axis_is_the_output(layer, shape, expected):
    """Removing all other outputs makes the layer's other channels zero."""
    if isinstance(layer, keras.layers.SeparableConv2D):
        pytest.skip("the outputs of its depthwise kernel are summed again")
    handle, found = layout(layer, *shape)
    mask = np.zeros(expected, bool)
    mask[..., 1] = True
    handle.set_mask(found.restore(mask))
    outputs = handle.layer(np.ones((1, *shape), "float32"))
    outputs = np.abs(keras.ops.convert_to_numpy(outputs))
    channels = outputs.reshape(-1, expected[-1])
    if outputs.size % expected[-1] == 0 and len(expected) > 2:
        assert channels[:, 1].any()
        assert not np.delete(channels, 1, axis=1).any()
    else:
        assert 0 < np.count_nonzero(outputs) <= outputs.size // min(expected[-1], 3)


def test_the_pointwise_kernel_is_unchanged():
    layer = keras.layers.SeparableConv2D(4, 3)
    _, found = layout(layer, 8, 8, 5, kernel=1)
    assert found.shape == (1, 1, 5, 4)
