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

from keras_micronets import observers, strip
from keras_micronets.channels import channel_graph, cut, importance, plan
from keras_micronets.channels.cut import cut_by_graph
from keras_micronets.channels.planner import Planner
from keras_micronets.layers import (
    QuantizationScheme,
    kernels,
    prepare,
    quantized_share,
    set_quantizers,
)
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


@pytest.mark.parametrize(
    "name",
    [
        *("plain", "residual", "grouped", "nested", "excited", "split", "shuffled"),
        *("drawn", "recurrent", "attention"),
    ],
)
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


@pytest.mark.parametrize(
    "name",
    ["residual", "depthwise", "nested", "split", "drawn", "attention"],
)
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


def quantized(build):
    """Return a model with random masks, and with quantisers that have seen data."""
    model = build_model(build)
    prepare(model, quantize=QuantizationScheme(observers.LearnedStepSize()))
    rng = np.random.default_rng(2)
    for kernel in kernels(model):
        kernel.assign_mask(rng.random(kernel.mask.shape) < 0.7)
    set_quantizers(model, True)
    model(images(), training=True)
    return model


@pytest.mark.parametrize(
    "name", ["depthwise", "grouped", "series", "split", "recurrent", "attention"]
)
def test_masks_and_ranges_are_cut_along(name):
    """The copy computes with the masked weights, in the ranges of the model."""
    model = quantized(MODELS[name])
    chosen = half(model)
    small, expected = cut(model, chosen), cut(strip(model), chosen)
    by_path = {v.path: ops.convert_to_numpy(v) for v in model.variables}
    scalars = [v for v in small.variables if len(v.shape) == 0]
    assert any(v.path.endswith("output_quantizer/upper") for v in scalars)
    for variable in scalars:
        np.testing.assert_array_equal(
            ops.convert_to_numpy(variable), by_path[variable.path]
        )
    assert quantized_share(small) == 1.0
    set_quantizers(small, False)
    for ours, theirs in zip(
        outputs(small, images()), outputs(expected, images()), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_step_sizes_are_cut_with_their_channels():
    """Channel `c` has steps `2 c` and `2 c + 1` of a twofold depthwise kernel."""
    twofold = layers.DepthwiseConv2D(3, depth_multiplier=2)
    model = quantized(lambda x: head(twofold(conv(x))))
    for layer in model.layers:
        if hasattr(layer, "kernel_quantizer"):
            size = layer.kernel_quantizer.step.shape
            values = np.arange(int(np.prod(size))).reshape(size) / 100
            layer.kernel_quantizer.step.assign(values)
    model.compile("adam", "mse", run_eagerly=True)
    model.fit(images(), np.zeros((8, 4)), verbose=0)
    step, momentum = _step_and_slot(model)
    chosen = half(model)
    small = cut(model, chosen)
    (kept,) = (kept for name, kept in chosen.kept.items() if name == "conv2d")
    assert 0 < len(kept) < 8
    places = np.ravel([[2 * c, 2 * c + 1] for c in kept])
    found = _step_and_slot(small)
    np.testing.assert_array_equal(found[0], step[places])
    np.testing.assert_array_equal(found[1], momentum[places])
    assert np.ptp(found[1]) > 0


def _step_and_slot(model):
    """Return the step sizes of a depthwise kernel, and their momentum."""
    step = model.get_layer("depthwise_conv2d").kernel_quantizer.step
    trained = model.trainable_variables
    index = next(i for i, v in enumerate(trained) if v is step)
    slot = slots_of(model.optimizer, trained)[index][0]
    return ops.convert_to_numpy(step), ops.convert_to_numpy(slot)


def test_directions_share_the_range_that_they_had():
    model = build_model(MODELS["recurrent"])
    prepare(model, quantize=True)
    set_quantizers(model, True)
    model(images(), training=True)
    small = cut(model, half(model))
    assert quantized_share(small) == 1.0
    assert np.isfinite(outputs(small, images())[0]).all()


def test_a_quantised_reshape_gets_its_new_size():
    inputs = keras.Input((8,))
    model = keras.Model(inputs, layers.Dense(3)(COPIES["reshape"](inputs)))
    prepare(model, quantize=True)
    set_quantizers(model, True)
    x = np.random.default_rng(1).normal(size=(16, 8)).astype("float32")
    model(x, training=True)
    small = cut(model, plan(model, params=0.6, round_to=1, min_channels=1))
    assert quantized_share(small) == 1.0
    assert outputs(small, x)[0].shape == (16, 3)


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
    """Computed here with the means of the kept channels."""
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


@pytest.mark.parametrize(
    "norm", [layers.Identity, layers.LayerNormalization, layers.RMSNormalization]
)
def test_a_wrong_cut_is_found(norm):
    """A rule that forgets a shift of channels would cut the wrong ones."""
    model = build_model(lambda x: head(conv(norm()(conv(x)))))
    graph = channel_graph(model)
    node = next(
        n for n in graph.nodes if n.role == "reads" and n.layer.name != "conv2d"
    )
    wrong = replace(node, channels=np.roll(node.channels, 1))
    nodes = tuple(wrong if one is node else one for one in graph.nodes)
    chosen = half(model)
    with pytest.raises(ValueError, match=r"outputs that differ by .* beginning at"):
        cut_by_graph(model, replace(graph, nodes=nodes), chosen)


def dense(units, name, **kwargs):
    return layers.Dense(units, name=name, **kwargs)


def stack(x, *parts):
    return dense(2, "z")(layers.Concatenate()([dense(3, n)(y) for n, y in parts]))


def split(x):
    first, second, third = ops.split(dense(6, "a")(x), 3, axis=-1)
    return stack(x, ("b", ops.concatenate([third, first], axis=-1)), ("c", second))


def slices(x):
    y = dense(6, "a")(x)
    return stack(x, ("b", y[..., :4]), ("c", ops.concatenate([y[:, 2:], y[:, -5:]], 1)))


def padded(x):
    y = ops.pad(dense(4, "a")(x), [[0, 0], [2, 1]], constant_values=1.0)
    return stack(x, ("b", y), ("c", dense(7, "d")(x) * y))


def repeated(x):
    y = dense(3, "a")(x)
    return stack(x, ("b", ops.tile(y, (1, 2))), ("c", ops.flip(ops.repeat(y, 2, 1), 1)))


def image(x):
    y = layers.Reshape((2, 2, 3))(dense(12, "a")(x))
    return dense(2, "z")(layers.GlobalMaxPooling2D()(layers.Conv2D(4, 2, name="b")(y)))


def heads(x):
    attention = layers.MultiHeadAttention(3, 2, 4, dropout=0.1, name="a")
    return dense(2, "z")(layers.Flatten()(attention(x, x)))


def grouped_heads(x):
    y = dense(6, "y")(x)
    attention = layers.GroupQueryAttention(2, 6, 3, name="a")
    return dense(2, "z")(layers.Flatten()(attention(y, y, use_causal_mask=True)))


def both_directions(x):
    gru = layers.GRU(3, return_sequences=True)
    return dense(2, "z")(layers.Flatten()(layers.Bidirectional(gru, name="a")(x)))


def with_state(x):
    y, h, c = layers.LSTM(3, return_state=True, name="a")(x)
    z = layers.LSTM(3, name="b")(x, initial_state=[h, c])
    return dense(2, "z")(layers.Concatenate()([y, z]))


GONE = [6 * step + channel for step in range(4) for channel in (2, 3, 5)]
# A model with inputs (5,) or (4, 5), the channels kept of each group; where readers get
# zeros: layer, number of the weight, rows; and the shapes of weights after the cut.
PARTS = {
    "split": (
        (split, (5,), {"a": [0], "a#2": [0, 1], "a#3": [1]}),
        [("b", 0, [0, 3])],  # channels 4 and 1 of `a`
        {"a": [(5, 4), (4,)], "b": [(2, 3), (3,)], "c": [(2, 3), (3,)]},
    ),
    "slices": (
        # boundaries at 1, 2 and 4: channels 0; 1; 2 and 3; 4 and 5
        (slices, (5,), {"a#3": [1], "a#4": [0]}),
        [("b", 0, [2]), ("c", 0, [0, 3, 5, 8])],
        {"a": [(5, 4), (4,)], "b": [(3, 3), (3,)], "c": [(5, 3), (3,)]},
    ),
    "padded": (
        # new channels before and after, tied to those of `d`
        (padded, (5,), {"d": [1], "a+d": [0, 2, 3]}),
        [("b", 0, [0, 3]), ("c", 0, [0, 3])],
        {"a": [(5, 3), (3,)], "d": [(5, 5), (5,)], "b": [(5, 3), (3,)]},
    ),
    "repeated": (
        (repeated, (5,), {"a": [0, 2]}),
        [("b", 0, [1, 4]), ("c", 0, [2, 3])],
        {"a": [(5, 2), (2,)], "b": [(4, 3), (3,)], "c": [(4, 3), (3,)]},
    ),
    "image": (
        (image, (5,), {"a": [0, 2]}),
        [("b", 0, np.s_[:, :, 1])],
        {"a": [(5, 8), (8,)], "b": [(2, 2, 2, 4), (4,)]},
    ),
    "heads": (
        (heads, (4, 5), {"a": [0, 2]}),
        [("a", 6, [1])],
        {
            "a": [
                *((5, 2, 2), (2, 2), (5, 2, 2), (2, 2), (5, 2, 4), (2, 4)),
                *((2, 4, 5), (5,)),
            ]
        },
    ),
    "grouped heads": (
        # two queries for each of three keys; inputs and outputs are equally wide
        (grouped_heads, (4, 5), {"a": [0, 2], "y+a": [0, 1, 4]}),
        [("a", 6, [2, 3]), *(("a", n, [2, 3, 5]) for n in (0, 2, 4)), ("z", 0, GONE)],
        {
            "y": [(5, 3), (3,)],
            "a": [
                *((3, 4, 2), (4, 2), (3, 2, 2), (2, 2), (3, 2, 2), (2, 2)),
                *((4, 2, 3), (3,)),
            ],
            "z": [(12, 2), (2,)],
        },
    ),
    "both directions": (
        (both_directions, (4, 5), {"a": [0, 2]}),
        [
            *(("a", 1, [1]), ("a", 4, [1])),
            ("z", 0, [1, 4, 7, 10, 13, 16, 19, 22]),
        ],
        {
            "a": [(5, 6), (2, 6), (2, 6)] * 2,
            "z": [(16, 2), (2,)],
        },
    ),
    "with state": (
        (with_state, (4, 5), {"a+b": [1, 2]}),
        [("a", 1, [0]), ("b", 1, [0]), ("z", 0, [0, 3])],
        {name: [(5, 8), (2, 8), (8,)] for name in "ab"} | {"z": [(4, 2), (2,)]},
    ),
}


def built(build, shape):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape)
    model = keras.Model(inputs, build(inputs))
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.7, w.shape) for w in model.weights])
    return model


@pytest.mark.parametrize("name", PARTS)
def test_parts_of_channels(name):
    (build, shape, kept), zeros, shapes = PARTS[name]
    model, whole = built(build, shape), built(build, shape)
    x = np.random.default_rng(1).normal(size=(16, *shape)).astype("float32")
    (before,) = outputs(whole, x)
    for layer, number, rows in zeros:
        weight = whole.get_layer(layer).weights[number]
        values = ops.convert_to_numpy(weight).copy()
        values[rows] = 0
        weight.assign(values)
    chosen = plan(model, params=1.0, round_to=1, min_channels=1)
    chosen = replace(chosen, kept={n: tuple(k) for n, k in kept.items()})
    small = cut(model, chosen)
    (expected,), (found,) = outputs(whole, x), outputs(small, x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(before - expected).max() > 0.1
    for layer, expected_shapes in shapes.items():
        weights = small.get_layer(layer).weights
        assert [tuple(w.shape) for w in weights] == expected_shapes


@pytest.mark.parametrize("cls", [layers.SimpleRNN, layers.GRU, layers.LSTM, "before"])
def test_units_of_recurrent_layers(cls):
    reset = {"reset_after": False} if cls == "before" else {}
    cls = layers.GRU if reset else cls
    n_gates = {layers.SimpleRNN: 1, layers.GRU: 3, layers.LSTM: 4}[cls]

    def build(x):
        x = cls(6, return_sequences=True, name="b", **reset)(x)
        return dense(2, "z")(cls(4, name="a", **reset)(x))

    model, whole = built(build, (7, 5)), built(build, (7, 5))
    weights = [w.copy() for w in whole.get_weights()]
    first, second, last = weights[:3], weights[3:6], weights[6:]
    first[1][[0, 5]] = second[0][[0, 5]] = 0  # units 0 and 5 of b
    second[1][2] = last[0][2] = 0  # unit 2 of a
    whole.set_weights([*first, *second, *last])
    chosen = plan(model, params=1.0, round_to=1, min_channels=1)
    chosen = replace(chosen, kept={"b": (1, 2, 3, 4), "a": (0, 1, 3)})
    small = cut(model, chosen)
    x = np.random.default_rng(1).normal(size=(16, 7, 5)).astype("float32")
    (expected,), (found,) = outputs(whole, x), outputs(small, x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    kernel = ops.convert_to_numpy(small.get_layer("a").cell.kernel)
    columns = np.delete(np.arange(4 * n_gates), [4 * g + 2 for g in range(n_gates)])
    theirs = ops.convert_to_numpy(model.get_layer("a").cell.kernel)
    np.testing.assert_array_equal(kernel, theirs[1:5][:, columns])


def spatial(x):
    y = dense(6, "a")(x)
    mean, most = ops.mean(y, -1, keepdims=True), ops.max(y, axis=-1)
    most = layers.Reshape((4, 1))(most)
    weights = dense(1, "s", activation="sigmoid")(ops.concatenate([mean, most], -1))
    return dense(2, "z")(y * weights)


def test_spatial_attention_is_over_the_kept_channels():
    model = built(spatial, (4, 5))
    chosen = plan(model, params=1.0, round_to=1, min_channels=1)
    small = cut(model, replace(chosen, kept={"a": (1, 2, 5)}))
    x = np.random.default_rng(1).normal(size=(16, 4, 5)).astype("float32")
    a, bias, s, shift, z, offset = model.get_weights()
    y = (x @ a + bias)[..., [1, 2, 5]]
    both = np.stack([y.mean(-1), y.max(-1)], axis=-1)
    expected = (y / (1 + np.exp(-(both @ s + shift)))) @ z[[1, 2, 5]] + offset
    np.testing.assert_allclose(outputs(small, x)[0], expected, rtol=1e-4, atol=1e-5)
    prepare(model)
    with pytest.raises(ValueError, match="takes a mean or maximum over them"):
        Planner(model, masked=True, min_channels=1)


@pytest.mark.parametrize("build", [spatial, "normalised"])
def test_a_wrong_cut_of_averaged_channels_is_found(build):
    if build == "normalised":

        def build(x):
            y = layers.LayerNormalization(name="n")(dense(6, "a")(x))
            return dense(2, "z")(y)

    model = built(build, (4, 5))
    graph = channel_graph(model)
    node = next(n for n in graph.nodes if n.layer.name == "z" and n.role == "reads")
    wrong = replace(node, channels=np.roll(node.channels, 1))
    nodes = tuple(wrong if one is node else one for one in graph.nodes)
    chosen = plan(model, params=1.0, round_to=1, min_channels=1)
    chosen = replace(chosen, kept={"a": (0, 1, 4)})
    cut_by_graph(model, graph, chosen)
    with pytest.raises(ValueError, match="outputs that differ"):
        cut_by_graph(model, replace(graph, nodes=nodes), chosen)
