"""Kernels in layers inside of others: recurrent layers, attention, wrappers.

The right outputs are those of NumPy, and of plain Keras layers with zeros in place of
the masked weights.
"""

import re

import keras
import numpy as np
import pytest
from keras import layers

from keras_micronets import _keras_private, sparsity_report
from keras_micronets.callbacks import (
    DynamicSparseTraining,
    LearnerCycles,
    QuantizationAwareTraining,
    WeightPruning,
)
from keras_micronets.layers import (
    Scope,
    clone,
    kernel_gradients,
    kernels,
    prepare,
    quantization_report,
    strip,
)
from keras_micronets.learners import LearnerPool
from keras_micronets.schedules import Constant

EVERYTHING = Scope(first=True, last=True, small=True)


def sequential(*inner):
    return keras.Sequential([keras.Input((5, 6)), *inner, layers.Dense(3, name="head")])


def attention(make=layers.MultiHeadAttention, **arguments):
    inputs = keras.Input((5, 6))
    x = make(**arguments, name="attention")(inputs, inputs)
    return keras.Model(inputs, layers.Dense(3, name="head")(layers.Flatten()(x)))


def deep():
    inner = layers.Bidirectional(layers.GRU(4), merge_mode="sum")
    return keras.Sequential(
        [keras.Input((2, 5, 6)), layers.TimeDistributed(inner), layers.Flatten()]
    )


MODELS = {
    "LSTM": lambda: sequential(layers.LSTM(4, name="memory")),
    "LSTM-dropout": lambda: sequential(layers.LSTM(4, recurrent_dropout=0.2)),
    "LSTM-backwards": lambda: sequential(layers.LSTM(4, go_backwards=True)),
    "GRU": lambda: sequential(layers.GRU(4, name="memory")),
    "GRU-before": lambda: sequential(layers.GRU(4, reset_after=False)),
    "SimpleRNN": lambda: sequential(layers.SimpleRNN(4, unroll=True)),
    "Bidirectional": lambda: sequential(layers.Bidirectional(layers.LSTM(4))),
    "TimeDistributed": deep,
    "MultiHeadAttention": lambda: attention(num_heads=2, key_dim=3),
    "GroupQueryAttention": lambda: attention(
        layers.GroupQueryAttention, head_dim=2, num_query_heads=4, num_key_value_heads=2
    ),
}
every_model = pytest.mark.parametrize("kind", MODELS)


def data(model, n=24):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, *model.input_shape[1:])).astype("float32")
    return x, rng.integers(0, 3, n)


def outputs(model):
    return keras.ops.convert_to_numpy(model(data(model)[0], training=False))


def masked(kind, share=0.5):
    """Return a model with random masks, whose masked weights are not zero."""
    model = MODELS[kind]()
    prepare(model)
    rng = np.random.default_rng(1)
    for kernel in kernels(model):
        kernel.assign_mask(rng.random(kernel.mask.shape) > share)
    return model


def compiled(model, optimizer="adam"):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss)
    return model


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_an_lstm_computes_with_masked_kernels():
    model = masked("LSTM")
    (first, second, _), (x, _) = kernels(model), data(model)
    assert [first.path, second.path] == ["memory/kernel", "memory/recurrent_kernel"]
    w, u = first.weights * first.mask, second.weights * second.mask
    bias = model.layers[0].get_weights()[2]
    h = c = np.zeros((len(x), 4), "float32")
    for step in range(5):
        i, f, g, o = np.split(x[:, step] @ w + h @ u + bias, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
    found = keras.ops.convert_to_numpy(model.layers[0](x))
    np.testing.assert_allclose(found, h, atol=1e-6)


@every_model
def test_strip_writes_zeros_and_predicts_the_same(kind):
    model = masked(kind)
    plain, found = strip(model), outputs(model)
    np.testing.assert_allclose(outputs(plain), found, atol=1e-7)
    for layer in _keras_private.flatten_layers(plain):
        assert "keras_micronets" not in type(layer).__module__
    removed = sum(int((~kernel.mask).sum()) for kernel in kernels(model))
    zeros = sum(
        int((keras.ops.convert_to_numpy(x) == 0).sum())
        for x in plain.trainable_variables
        if "bias" not in x.path
    )
    assert zeros == removed > 0
    assert sparsity_report(model).sparsity == pytest.approx(
        removed / sum(kernel.size for kernel in kernels(model))
    )


@every_model
def test_preparation_changes_no_prediction(kind):
    model = MODELS[kind]()
    before = outputs(model)
    report = prepare(model, quantize=True)
    # PyTorch rounds its sums by where a tensor lies in memory. LSTM and GRU project all
    # steps at once. Prepared attention layers scale the query, and Keras the scores.
    reordered = kind.startswith(("LSTM", "GRU", "Bidirectional")) or "Attention" in kind
    atol = 5e-6 if reordered or keras.backend.backend() == "torch" else 0
    np.testing.assert_allclose(outputs(model), before, rtol=0, atol=atol)
    assert not report.skipped
    np.testing.assert_allclose(outputs(strip(model)), before, rtol=0, atol=atol)


@every_model
def test_saves_loads_and_clones(kind, tmp_path):
    model = masked(kind)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    weighted = MODELS[kind]()
    prepare(weighted)
    weighted.load_weights(tmp_path / "model.weights.h5")
    for copy in (loaded, weighted, clone(model)):
        np.testing.assert_allclose(outputs(copy), outputs(model), atol=1e-7)
        for ours, theirs in zip(kernels(copy), kernels(model), strict=True):
            np.testing.assert_array_equal(ours.mask, theirs.mask)
            np.testing.assert_array_equal(ours.weights, theirs.weights)
    strip(model).save_weights(tmp_path / "plain.weights.h5")
    loaded.load_weights(tmp_path / "plain.weights.h5")
    assert all(kernel.mask.all() for kernel in kernels(loaded))


@pytest.mark.parametrize("kind", ["LSTM", "Bidirectional", "MultiHeadAttention"])
def test_masked_weights_get_no_gradient(kind):
    model = compiled(masked(kind), keras.optimizers.Adam(0.01, weight_decay=0.0))
    before = [kernel.weights for kernel in kernels(model)]
    x, y = data(model)
    model.fit(x, y, verbose=0)
    for kernel, weights in zip(kernels(model), before, strict=True):
        changed = kernel.weights != weights
        assert not changed[~kernel.mask].any()
        assert changed.any()


def test_gradients_of_masked_weights_are_dense():
    """They are those of the plain model with zeros."""
    model = compiled(masked("LSTM"), "sgd")
    x, y = data(model)
    found = kernel_gradients(model, x, y)[1]
    plain = compiled(strip(model), keras.optimizers.SGD(1.0))
    before = plain.layers[0].get_weights()[1]
    plain.train_on_batch(x, y)
    after = plain.layers[0].get_weights()[1]
    np.testing.assert_allclose(found, before - after, atol=1e-6)
    assert np.abs(found[~kernels(model)[1].mask]).max() > 0


@pytest.mark.parametrize("kind", ["GRU", "Bidirectional", "MultiHeadAttention"])
def test_is_pruned_in_training(kind):
    model = compiled(MODELS[kind]())
    x, y = data(model)
    pruning = WeightPruning(Constant(0.5), scope=EVERYTHING)
    model.fit(x, y, epochs=2, verbose=0, callbacks=[pruning])
    for kernel in kernels(model):
        assert kernel.sparsity == pytest.approx(0.5, abs=0.05)
        assert not kernel.weights[~kernel.mask].any()


def test_connections_of_a_recurrent_layer_move():
    model = compiled(MODELS["LSTM"]())
    x, y = data(model)
    callback = DynamicSparseTraining(
        0.5, scope=EVERYTHING, growth="gradient", data=(x, y), frequency=1
    )
    model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[callback])
    assert sparsity_report(model).sparsity == pytest.approx(0.5, abs=0.05)


@pytest.mark.filterwarnings("ignore:Expected a trained parent")
def test_cycles_train_sparse_recurrent_learners(tmp_path):
    model = compiled(MODELS["Bidirectional"]())
    pool = LearnerPool(tmp_path)
    x, y = data(model)
    cycles = LearnerCycles.prune2edge(pool, 2, sparsity=0.5)
    model.fit(x, y, epochs=4, verbose=0, callbacks=[cycles])
    assert [learner.sparsity > 0.2 for learner in pool] == [True, True]
    assert pool.predict(x, verbose=0).shape == (2, 24, 3)


def test_a_bidirectional_layer_masks_both_cells_for_fused_operations(monkeypatch):
    """A fused operation reads the cells without calling their layers."""
    model, seen = masked("Bidirectional", share=1.0), []

    def call(self, sequences, **arguments):
        for layer in (self.forward_layer, self.backward_layer):
            seen.append(keras.ops.convert_to_numpy(layer.cell.kernel).any())
        raise NotImplementedError

    monkeypatch.setattr(layers.Bidirectional, "call", call)
    with pytest.raises(NotImplementedError):
        model(data(model)[0])
    assert seen == [False, False]
    for kernel in kernels(model):  # after an error, too
        assert isinstance(kernel.variable, keras.Variable)


def test_recurrent_layers_stay_float_and_projections_are_quantised(tmp_path):
    inner = layers.SimpleRNN(4, name="memory")
    floating = prepare(sequential(inner), quantize=True).floating
    reason = "recurrent layers are pruned, not quantised"
    assert floating == (f"memory (SimpleRNN): {reason}",)
    model = compiled(MODELS["MultiHeadAttention"]())
    x, y = data(model)
    model.fit(x, y, verbose=0, callbacks=[QuantizationAwareTraining()])
    rows = {(row.layer, row.tensor) for row in quantization_report(model).rows}
    assert {("query", "kernel"), ("attention", "scores")} < rows
    model.save(tmp_path / "model.keras")
    for copy in (keras.saving.load_model(tmp_path / "model.keras"), clone(model)):
        np.testing.assert_array_equal(outputs(copy), outputs(model))
        assert quantization_report(copy) == quantization_report(model)


def test_scopes_name_enclosing_layers():
    def chosen(model, **arguments):
        return [kernel.path for kernel in Scope(**arguments)(model)]

    model = masked("MultiHeadAttention")
    inner = [f"attention/{x}" for x in ("query", "key", "value", "attention_output")]
    assert chosen(model, only="attention") == inner
    assert chosen(model, only=layers.MultiHeadAttention) == inner
    assert chosen(model, only="attention/key") == inner[1:2]
    assert chosen(model, first=False, last=True) == ["head"]
    model = masked("Bidirectional")
    assert len(chosen(model, only=layers.Bidirectional)) == 4
    assert len(chosen(model, only=layers.LSTM)) == 4
    assert chosen(model, only=re.compile("^forward_.*/recurrent")) == [
        "forward_lstm/recurrent_kernel"
    ]


def test_cells_of_a_general_recurrent_layer_are_reported():
    model = sequential(layers.RNN([layers.LSTMCell(4, name="a"), layers.GRUCell(4)]))
    before = outputs(model)
    skipped = prepare(model).skipped
    assert skipped[0] == "a (LSTMCell): it has no micro layer"
    assert len(skipped) == 2
    np.testing.assert_array_equal(outputs(model), before)


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(dtype):
    model = sequential(layers.Bidirectional(layers.GRU(4, dtype=dtype), dtype=dtype))
    before = outputs(model)
    prepare(model)
    np.testing.assert_array_equal(outputs(model), before)
    for kernel in kernels(model):
        kernel.assign_mask(np.arange(kernel.size).reshape(kernel.mask.shape) % 2 == 0)
    np.testing.assert_allclose(outputs(strip(model)), outputs(model), atol=1e-3)
