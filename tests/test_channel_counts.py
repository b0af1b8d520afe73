"""Multiply-accumulates of recurrent layers and others, against formulas."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_micronets.channels import channel_graph, count_macs, cut, plan
from keras_micronets.channels.counts import Counts
from keras_micronets.channels.plans import build_plan
from keras_micronets.layers import Scope, prepare

STEPS, FEATURES, UNITS = 10, 6, 5
LSTM = STEPS * 4 * UNITS * (FEATURES + UNITS)
GRU = STEPS * 3 * UNITS * (FEATURES + UNITS)


class Bilinear(layers.Layer):
    """A custom layer: each step times a matrix, and the steps times each other."""

    def build(self, shape):
        self.matrix = self.add_weight(shape=(shape[-1], shape[-1]))

    def call(self, x):
        y = ops.matmul(x, self.matrix)
        return ops.einsum("btc,bsc->bts", y, x)


LAYERS = {
    "LSTM": (lambda x: layers.LSTM(UNITS)(x), LSTM),
    "GRU": (lambda x: layers.GRU(UNITS, return_sequences=True)(x), GRU),
    "SimpleRNN": (
        lambda x: layers.SimpleRNN(UNITS)(x),
        STEPS * UNITS * (FEATURES + UNITS),
    ),
    "Bidirectional": (lambda x: layers.Bidirectional(layers.LSTM(UNITS))(x), 2 * LSTM),
    "TimeDistributed": (
        lambda x: layers.TimeDistributed(layers.Dense(4))(x),
        STEPS * FEATURES * 4,
    ),
    "attention": (
        lambda x: layers.MultiHeadAttention(2, 3)(x, x),
        # three projections to two heads of three, and one back; scores, and their use
        4 * STEPS * FEATURES * 6 + 2 * STEPS * STEPS * 6,
    ),
    "custom": (
        lambda x: Bilinear()(x),
        STEPS * FEATURES**2 + STEPS**2 * FEATURES,
    ),
    "Dot": (lambda x: layers.Dot(axes=-1)([x, x]), STEPS**2 * FEATURES),
    "matmul": (
        lambda x: ops.matmul(x, ops.transpose(x, (0, 2, 1))),
        STEPS**2 * FEATURES,
    ),
    "einsum": (lambda x: ops.einsum("btc,bsc->bts", x, x), STEPS**2 * FEATURES),
}


@pytest.mark.parametrize("name", LAYERS)
def test_what_a_layer_multiplies(name):
    build, expected = LAYERS[name]
    inputs = keras.Input((STEPS, FEATURES))
    model = keras.Model(inputs, build(inputs))
    assert count_macs(model) == expected


# What is left of a layer with 3 of its units, or 2 of its 4 heads.
CUT = {
    "LSTM": (layers.LSTM(UNITS), 3, STEPS * 4 * 3 * (FEATURES + 3)),
    "GRU": (layers.GRU(UNITS), 3, STEPS * 3 * 3 * (FEATURES + 3)),
    "Bidirectional": (
        layers.Bidirectional(layers.SimpleRNN(UNITS)),
        3,
        2 * STEPS * 3 * (FEATURES + 3),
    ),
    "attention": (
        lambda x: layers.MultiHeadAttention(4, 3, 2, dropout=0.1)(x, x),
        2,
        # query and key, value and output; products of queries with keys, and of values
        STEPS * FEATURES * 2 * (3 + 3 + 2 + 2) + STEPS**2 * 2 * (3 + 2),
    ),
}


@pytest.mark.parametrize("name", CUT)
def test_what_a_cut_layer_multiplies(name):
    build, n, expected = CUT[name]
    inputs = keras.Input((STEPS, FEATURES))
    x = layers.Flatten()(build(inputs))
    model = keras.Model(inputs, layers.Dense(2)(x))
    chosen = plan(model, macs=1.0, round_to=1, min_channels=1)
    group = next(name for name, kept in chosen.kept.items() if len(kept) in (4, UNITS))
    # Another plan of this many units has these counts.
    graph = channel_graph(model)
    chosen = build_plan(graph, Counts(model, graph), {group: tuple(range(n))})
    small = cut(model, chosen)
    expected += int(np.prod(small.layers[-1].kernel.shape))
    assert count_macs(small) == chosen.macs[1] == expected


def test_heads_are_cut_in_widths_of_their_values():
    """A head of 8 values is a multiple of 8 channels."""
    inputs = keras.Input((STEPS, FEATURES))
    x = layers.MultiHeadAttention(4, 8, name="attention")(inputs, inputs)
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))
    chosen = plan(model, params=0.8)
    assert 1 <= len(chosen.kept["attention"]) < 4


def test_a_scope_without_a_projection_keeps_the_heads():
    inputs = keras.Input((STEPS, FEATURES))
    x = layers.MultiHeadAttention(4, 8, name="attention")(inputs, inputs)
    x = layers.GlobalAveragePooling1D()(layers.Dense(16, name="wide")(x))
    model = keras.Model(inputs, layers.Dense(2)(x))
    chosen = plan(model, params=0.95, scope=Scope(without="attention/query"))
    assert chosen.protected["attention"] == "outside the scope"
    assert set(chosen.kept) == {"wide"}


def test_a_prepared_model_costs_the_same():
    inputs = keras.Input((STEPS, FEATURES))
    x = layers.Bidirectional(layers.LSTM(UNITS, return_sequences=True))(inputs)
    model = keras.Model(inputs, layers.MultiHeadAttention(2, 3)(x, x))
    before = count_macs(model)
    prepare(model, quantize=True)
    assert count_macs(model) == before


def test_budgets_include_what_is_not_cut():
    inputs = keras.Input((STEPS, FEATURES))
    x = layers.LSTM(UNITS)(layers.Dense(64)(inputs))
    model = keras.Model(inputs, layers.Dense(2)(layers.Dense(64)(x)))
    recurrent = STEPS * 4 * UNITS * (64 + UNITS)
    before, after = plan(model, macs=0.98, round_to=1, min_channels=1).macs
    assert before == STEPS * FEATURES * 64 + recurrent + UNITS * 64 + 64 * 2
    assert after <= 0.98 * before


@keras.saving.register_keras_serializable("tests")
class OnLargeInputs(layers.Layer):
    """Cannot be run on zeros."""

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)

    def call(self, x):
        if np.max(ops.convert_to_numpy(x)) == 0:
            raise ValueError("zeros")
        return x


def test_what_cannot_be_counted_is_named():
    inputs = keras.Input((FEATURES,))
    x = OnLargeInputs(name="large")(inputs)
    model = keras.Model(inputs, layers.Dense(3)(x))
    assert channel_graph(model).uncounted == ("large (OnLargeInputs)",)
    with pytest.warns(UserWarning, match=r"do not include those of large"):
        count_macs(model)
