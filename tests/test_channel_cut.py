"""A cut model predicts what the whole one does with zeros for the cut channels."""

import importlib
from dataclasses import replace

import keras
import numpy as np
import pytest
from channel_cases import MODELS, build_model, conv, head, images, outputs, zeroed
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops

from keras_micronets.channels import channel_graph, cut, importance, plan
from keras_micronets.channels.cut import cut_by_graph
from keras_micronets.layers import kernels, prepare
from keras_micronets.layers.optimizer_slots import slots_of


def half(model, **kwargs):
    options = {"params": 0.6, "round_to": 1, "min_channels": 1, **kwargs}
    return plan(model, importance=importance.Random(1), **options)


@pytest.mark.parametrize("name", MODELS)
def test_cut_model_predicts_as_with_zeros(name):
    model = build_model(MODELS[name])
    chosen = half(model)
    small = cut(model, chosen)
    expected = outputs(zeroed(model, chosen), images())
    for ours, theirs in zip(outputs(small, images()), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    assert small.count_params() == chosen.params[1] <= 0.6 * model.count_params()
    assert model.count_params() == chosen.params[0]


@pytest.mark.parametrize("name", ["plain", "residual", "grouped", "nested", "excited"])
def test_cut_models_are_saved_and_loaded(name, tmp_path):
    model = build_model(MODELS[name])
    small = cut(model, half(model))
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    for ours, theirs in zip(
        outputs(loaded, images()), outputs(small, images()), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_the_model_is_not_changed():
    model = build_model(MODELS["residual"])
    before = model.get_weights()
    cut(model, half(model))
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["residual", "depthwise", "nested"])
def test_a_prepared_model_is_cut_to_a_plain_one(name):
    model, prepared = build_model(MODELS[name]), build_model(MODELS[name])
    prepare(prepared, quantize=True)
    chosen = half(model)
    small = cut(prepared, chosen)
    assert not kernels(small)
    for ours, theirs in zip(
        outputs(small, images()), outputs(cut(model, chosen), images()), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def trained(epochs):
    model = build_model(MODELS["plain"])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    y = np.arange(64) % 4
    model.fit(images(64), y, epochs=epochs, verbose=0, shuffle=False)
    return model


def test_optimizer_state_of_kept_channels_is_copied():
    model = trained(2)
    chosen = half(model)
    small = cut(model, chosen)
    graph = channel_graph(model)
    keep = chosen.kept_channels(graph)
    (node,) = (n for n in graph.nodes if n.layer.name == "dense" and n.role == "reads")
    index = next(i for i, v in enumerate(model.trainable_variables) if v is node.weight)
    before, after = (
        slots_of(m.optimizer, m.trainable_variables)[index] for m in (model, small)
    )
    assert len(before) == len(after) == 2
    for ours, theirs in zip(after, before, strict=True):
        theirs = ops.convert_to_numpy(theirs)[keep[node.channels]]
        assert np.abs(theirs).min() > 0
        np.testing.assert_array_equal(ops.convert_to_numpy(ours), theirs)
    assert int(small.optimizer.iterations) == int(model.optimizer.iterations) == 4


def test_training_of_a_cut_model_continues():
    model = trained(1)
    small = cut(model, half(model))
    y = np.arange(64) % 4
    small.fit(images(64), y, verbose=0)
    assert int(small.optimizer.iterations) == 4


def test_an_uncompiled_model_stays_uncompiled():
    model = build_model(MODELS["plain"])
    assert not cut(model, half(model)).compiled


def test_a_plan_of_another_model_is_rejected():
    chosen = half(build_model(MODELS["residual"]))
    with pytest.raises(ValueError, match="not there"):
        cut(build_model(MODELS["series"]), chosen)


def test_a_plan_with_too_many_channels_is_rejected():
    narrow = build_model(lambda x: head(conv(x, 8)))
    wide = build_model(lambda x: head(conv(x, 16)))
    with pytest.raises(ValueError, match="fewer here"):
        cut(narrow, half(wide, params=0.9))


def test_layer_normalization_is_over_kept_channels():
    """Zeros would count in its mean, so there is no mask to compare with."""
    model = build_model(lambda x: head(conv(layers.LayerNormalization()(conv(x)))))
    chosen = half(model)
    chosen = replace(chosen, kept={"conv2d": chosen.kept["conv2d"]})
    small = cut(model, chosen)
    graph = channel_graph(model)
    (node,) = (n for n in graph.nodes if n.role == "averages")
    kept = np.flatnonzero(chosen.kept_channels(graph)[node.channels])
    first, norm, second = model.layers[1:4]
    x = ops.take(first(images()), kept, axis=-1)
    mean, variance = ops.moments(x, axes=[-1], keepdims=True)
    x = (x - mean) / ops.sqrt(variance + norm.epsilon)
    x = x * ops.take(norm.gamma, kept) + ops.take(norm.beta, kept)
    kernel = ops.take(second.kernel, kept, axis=2)
    x = ops.conv(x, kernel, padding="same") + second.bias
    np.testing.assert_allclose(
        outputs(small, images())[0],
        ops.convert_to_numpy(model.layers[5](model.layers[4](x))),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("groups", [1, 4, -1])
def test_group_normalization_keeps_its_groups(groups):
    norm = layers.GroupNormalization(groups)
    model = build_model(lambda x: head(conv(norm(conv(x)))))
    small = cut(model, half(model))
    width = small.layers[1].filters
    assert width < 8
    assert small.layers[2].gamma.shape == (width,)
    assert groups == -1 or width % groups == 0
    outputs(small, images())


@pytest.mark.slow
@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(10_000, 20_000))
def test_random_graphs(seed):
    row = importlib.import_module("benchmarks.channels.cut").graph_row(seed)
    if "refused" not in row:
        assert row["difference"] < 1e-5
        assert row["params_agree"]


def halved(x):
    return x * 0.5


COPIES = {
    "lambda": lambda x: layers.Lambda(lambda y: y * 0.5)(layers.Dense(32)(x)),
    "activation": lambda x: layers.Dense(32, activation=halved)(x),
    "initialiser": lambda x: layers.Dense(
        32, kernel_initializer=keras.initializers.Constant(np.ones((8, 32)))
    )(x),
    "reshape": lambda x: ops.reshape(
        layers.Dense(32)(ops.reshape(x, (-1, 1, 8))), (-1, 32)
    ),
}


@pytest.mark.parametrize("kind", COPIES)
def test_layers_with_functions_and_arrays_of_memory_are_copied(kind):
    def build():
        inputs = keras.Input((8,))
        return keras.Model(inputs, layers.Dense(3)(COPIES[kind](inputs)))

    model, whole = build(), build()
    chosen = plan(model, params=0.6, round_to=1, min_channels=1)
    small = cut(model, chosen)
    whole.set_weights(model.get_weights())
    (kept,) = chosen.kept.values()
    reader = whole.layers[-1]
    gone = np.setdiff1d(np.arange(32), kept)
    kernel = ops.convert_to_numpy(reader.kernel).copy()
    kernel[gone] = 0
    reader.kernel.assign(kernel)
    x = np.random.default_rng(1).normal(size=(16, 8)).astype("float32")
    (expected,), (found,) = outputs(whole, x), outputs(small, x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert small.count_params() <= 0.6 * model.count_params()


def test_a_wrong_cut_is_found(monkeypatch):
    """A rule that forgets a shift of channels would cut the wrong ones."""
    model = build_model(lambda x: head(conv(conv(x))))
    graph = channel_graph(model)
    node = next(
        n for n in graph.nodes if n.role == "reads" and n.layer.name != "conv2d"
    )
    wrong = replace(node, channels=np.roll(node.channels, 1))
    nodes = tuple(wrong if one is node else one for one in graph.nodes)
    chosen = half(model)
    with pytest.raises(ValueError, match=r"outputs that differ by .* beginning at"):
        cut_by_graph(model, replace(graph, nodes=nodes), chosen)
