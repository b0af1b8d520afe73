"""Attention in integers: scores, masks and probabilities as LiteRT has them."""

import keras
import numpy as np
import pytest
from exact_cases import assert_equals_its_file, learned
from keras import layers, ops

from keras_micronets.export import export_tflite
from keras_micronets.layers import QuantizationScheme, prepare, set_quantizers
from keras_micronets.layers.micro.composites import MicroMultiHeadAttention

SHAPE = (9, 8)


def attend(make=layers.MultiHeadAttention, n=(2, 4), **call):
    return lambda x: layers.Dense(3)(make(*n)(x, x, **call))


MODELS = {
    "self": attend(),
    "causal": attend(use_causal_mask=True),
    "causal with dropout": lambda x: layers.MultiHeadAttention(2, 4, dropout=0.2)(
        x, x, use_causal_mask=True
    ),
    "grouped": attend(layers.GroupQueryAttention, (4, 4, 2)),
    "across": lambda x: layers.MultiHeadAttention(2, 4)(x, layers.Dense(6)(x)),
    "block": lambda x: layers.Dense(8, "gelu")(
        layers.Add()([y := layers.Dense(8)(x), layers.MultiHeadAttention(2, 4)(y, y)])
    ),
}
every_model = pytest.mark.parametrize("kind", MODELS)


def data(n=16, seed=3):
    x = np.random.default_rng(seed).normal(size=(n, *SHAPE))
    return x.astype("float32")


def outputs(model, *inputs):
    inputs = inputs[0] if len(inputs) == 1 else list(inputs)
    return ops.convert_to_numpy(model(inputs, training=False))


def with_masks():
    inputs, masks = keras.Input(SHAPE), keras.Input((9, 9), dtype="bool")
    x = layers.MultiHeadAttention(2, 4)(inputs, inputs, attention_mask=masks)
    return keras.Model([inputs, masks], layers.Dense(3)(x))


def some_masks(n=16):
    masks = np.random.default_rng(4).random((n, 9, 9)) < 0.6
    masks[:, :, 0] = True
    return masks


@pytest.mark.slow
@pytest.mark.tensorflow
@every_model
def test_files_have_the_integers_that_keras_predicts(kind, tmp_path):
    assert_equals_its_file(learned(MODELS[kind], SHAPE), tmp_path)


@pytest.mark.tensorflow
def test_masks_among_the_inputs(tmp_path):
    model = with_masks()
    prepare(model, quantize=True)
    set_quantizers(model, True)
    model([data(), some_masks()], training=True)
    data_of_both = data(), some_masks()
    path = tmp_path / "model.tflite"
    report = export_tflite(model, path, representative_data=data_of_both)
    assert not report.float_operations
    assert report.largest_difference == 0


@every_model
def test_prepared_layers_predict_as_before(kind):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, MODELS[kind](inputs))
    before = outputs(model, data())
    prepare(model, quantize=True)
    np.testing.assert_allclose(outputs(model, data()), before, atol=1e-5)


def test_masks_act_as_before():
    keras.utils.set_random_seed(0)
    model = with_masks()
    before = outputs(model, data(), some_masks())
    prepare(model, quantize=True)
    after = outputs(model, data(), some_masks())
    np.testing.assert_allclose(after, before, atol=1e-5)


@pytest.mark.parametrize("bits", [4, 8])
def test_masked_positions_get_no_attention(bits):
    """What is masked may change: the outputs stay as they are."""
    keras.utils.set_random_seed(0)
    model = with_masks()
    prepare(model, quantize=QuantizationScheme(activation_bits=bits))
    set_quantizers(model, True)
    x, masks = data(), some_masks()
    masks[:, :, -1] = False
    model([x, masks], training=True)
    changed = x.copy()
    changed[:, -1] = x[::-1, -1]
    first, second = outputs(model, x, masks), outputs(model, changed, masks)
    np.testing.assert_array_equal(first[:, :-1], second[:, :-1])
    assert (first[:, -1] != second[:, -1]).any()
    (layer,) = (x for x in model.layers if isinstance(x, MicroMultiHeadAttention))
    _, probabilities = layer(x, x, attention_mask=masks, return_attention_scores=True)
    shown = np.broadcast_to(masks[:, None], probabilities.shape)
    probabilities = ops.convert_to_numpy(probabilities)
    assert probabilities[~shown].max() == 0
    assert probabilities[shown].max() > 0.2


def test_probabilities_are_those_of_the_rounded_scores():
    """The right values are NumPy's."""
    model = learned(MODELS["self"], SHAPE)
    (layer,) = (x for x in model.layers if isinstance(x, MicroMultiHeadAttention))
    x = data()
    _, found = layer(x, x, return_attention_scores=True)

    def rounded(values, quantizer):
        step = float(ops.convert_to_numpy(quantizer.scale()))
        lower, upper = map(float, map(ops.convert_to_numpy, quantizer.bounds()))
        integers = np.rint(values / step)
        return step * np.clip(integers, round(lower / step), round(upper / step))

    query, key = (
        ops.convert_to_numpy(projection(x, training=False)).astype("float64")
        for projection in (layer._query_dense, layer._key_dense)
    )
    query = rounded(query / 2, layer.scaled_query_quantizer)  # four features a head
    scores = np.einsum("btnh,bsnh->bnts", query, key)
    scores = rounded(scores, layer.scores_quantizer)
    expected = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    expected = rounded(expected, layer.probabilities_quantizer)
    difference = np.abs(ops.convert_to_numpy(found) - expected)
    assert np.mean(difference < 1e-6) > 0.97  # sums near a half are rounded twice


def test_a_layer_of_an_earlier_version_loads():
    """It has quantisers of its projections only."""
    model = learned(MODELS["self"], SHAPE)
    layer = model.layers[1]
    config = layer.get_config() | {"quantizers": ()}
    older = MicroMultiHeadAttention.from_config(config)
    older.build(layer.get_build_config()["shapes_dict"]["query_shape"], (None, *SHAPE))
    assert older.quantizer("scores") is None
    assert len(older.weights) == len(layer.weights) - 3 * 3
    assert older(data(), data()).shape == (16, 9, 8)
