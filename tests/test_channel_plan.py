"""Plans meet their budgets and change no model."""

import dataclasses
import re

import keras
import numpy as np
import pytest
from channel_cases import MODELS, build_model, conv, head, images
from keras import layers

import keras_micronets as kmn
from keras_micronets.channels import (
    channel_graph,
    count_macs,
    cut,
    importance,
    plan,
    plans,
    plot_plan,
)


def vgg(width=32):
    def build(x):
        for filters in (width, 2 * width, 4 * width):
            for _ in range(2):
                x = conv(x, filters, use_bias=False)
                x = layers.ReLU()(layers.BatchNormalization()(x))
            x = layers.MaxPooling2D()(x)
        return layers.Dense(10)(layers.Flatten()(x))

    return build_model(build)


def shares(chosen):
    return [pair[1] / pair[0] for pair in (chosen.params, chosen.macs)]


@pytest.mark.parametrize(
    ("params", "macs"), [(0.1, 0.25), (0.3, 0.2), (0.5, 0.5), (0.06, 0.2)]
)
def test_two_budgets_are_met(params, macs):
    """Up to a run of eight channels of a small network."""
    result = shares(plan(vgg(), params=params, macs=macs))
    assert params - 0.02 <= result[0] <= params
    assert macs - 0.02 <= result[1] <= macs


def test_budgets_of_a_paper_are_met():
    """VGG-16 in Qi et al. 2021: 94.1 % fewer parameters, 76.2 % fewer FLOPs."""
    inputs = keras.Input((32, 32, 3))
    x = inputs
    for stage, depth in enumerate((2, 2, 3, 3, 3)):
        for _ in range(depth):
            x = conv(x, 64 * 2 ** min(stage, 3), use_bias=False)
            x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.MaxPooling2D()(x)
    model = keras.Model(inputs, layers.Dense(10)(layers.Flatten()(x)))
    params, macs = shares(plan(model, params=0.059, macs=0.238))
    assert 0.054 <= params <= 0.059
    assert 0.233 <= macs <= 0.238


@pytest.mark.parametrize("quantity", ["params", "macs"])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.7])
@pytest.mark.parametrize("allocation", ["global", "uniform"])
def test_one_budget_is_used_up_to_a_run(quantity, share, allocation):
    model = vgg()
    chosen = plan(model, **{quantity: share}, allocation=allocation)
    before, after = getattr(chosen, quantity)
    assert after <= share * before
    if allocation == "global":
        assert after >= (share - 0.02) * before


def test_no_further_run_fits():
    """Each run of channels that was removed would exceed the budget."""
    model = vgg()
    chosen = plan(model, macs=0.3)
    sizes = {group.name: len(group.channels) for group in channel_graph(model).prunable}
    for name, kept in chosen.kept.items():
        if len(kept) < sizes[name]:
            more = tuple(range(len(kept) + 8))
            larger = dataclasses.replace(chosen, kept={**chosen.kept, name: more})
            assert count_macs(cut(model, larger)) > 0.3 * chosen.macs[0]


def test_counts_are_those_of_the_cut_model():
    model = vgg()
    chosen = plan(model, macs=0.3)
    small = cut(model, chosen)
    assert chosen.params == (model.count_params(), small.count_params())
    assert chosen.macs == (literal_macs(model), literal_macs(small))


def literal_macs(model):
    """Count from the layers and their output shapes."""
    total = 0
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D):
            total += int(np.prod(layer.output.shape[1:3]) * np.prod(layer.kernel.shape))
        elif isinstance(layer, layers.Dense):
            total += int(np.prod(layer.kernel.shape))
    return total


def test_widths_are_multiples():
    chosen = plan(vgg(), macs=0.3, round_to=4, min_channels=12)
    assert {len(kept) % 4 for kept in chosen.kept.values()} == {0}
    assert min(len(kept) for kept in chosen.kept.values()) >= 12


def test_the_most_important_channels_are_kept():
    model = vgg()
    graph = channel_graph(model)
    rng = np.random.default_rng(0)
    scores = [rng.uniform(size=len(group.channels)) for group in graph.groups]
    chosen = plan(model, macs=0.3, importance=scores)
    for group, values in zip(graph.groups, scores, strict=True):
        if group.reason is None:
            kept = chosen.kept[group.name]
            assert set(kept) == set(np.argsort(-values)[: len(kept)].tolist())


def test_unimportant_groups_lose_more():
    model = vgg()
    graph = channel_graph(model)
    flat = [np.ones(len(group.channels)) for group in graph.groups]
    low = np.r_[np.full(8, 10.0), np.full(120, 0.1)]
    pairs = zip(graph.groups, flat, strict=True)
    uneven = [low if group.name == "conv2d_5" else values for group, values in pairs]
    before = len(plan(model, macs=0.5, importance=flat).kept["conv2d_5"])
    assert len(plan(model, macs=0.5, importance=uneven).kept["conv2d_5"]) < before


def test_uniform_allocation_keeps_equal_shares():
    chosen = plan(vgg(64), macs=0.3, allocation="uniform", round_to=1)
    sizes = (64, 64, 128, 128, 256, 256)
    kept = [len(kept) / n for kept, n in zip(chosen.kept.values(), sizes, strict=True)]
    assert max(kept) - min(kept) < 0.02


def test_a_plan_prints_as_a_table():
    text = str(plan(vgg(), macs=0.3))
    lines = text.splitlines()
    assert lines[0].split() == ["layer", "channels", "parameters", "MACs"]
    assert lines[1].startswith("conv2d ")
    assert any(line.startswith("all ") for line in lines)
    assert "input of conv2d is protected" in text


def test_an_unused_budget_is_noted():
    """The budget of MACs takes the parameters far below theirs."""
    chosen = plan(vgg(), params=0.9, macs=0.1)
    assert "params" in chosen.notes[0]
    assert chosen.notes[0] in str(chosen)


def test_a_plan_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan(vgg(), macs=0.5).kept = {}


@pytest.mark.parametrize(
    "options",
    [{}, {"macs": 0.0}, {"params": 1.5}, {"macs": -1}, {"macs": 0.5, "params": 0}],
)
def test_invalid_budgets_are_rejected(options):
    with pytest.raises(ValueError, match="shares that may be kept"):
        plan(vgg(), **options)


def test_a_budget_that_cannot_be_met_is_rejected():
    with pytest.raises(ValueError, match="lower `min_channels`"):
        plan(vgg(), macs=0.001)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"allocation": "erk"}, "'global' or 'uniform'"),
        ({"round_to": 0}, "1 or more"),
        ({"min_channels": 0}, "1 or more"),
    ],
)
def test_invalid_arguments_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        plan(vgg(), macs=0.5, **options)


def test_a_model_with_nothing_to_cut_is_rejected():
    model = keras.Sequential([keras.Input((8,)), layers.Dense(4)])
    with pytest.raises(ValueError, match="none can"):
        plan(model, macs=0.5)


@pytest.mark.parametrize(
    "importance", [importance.GroupNorm(), importance.Magnitude(), importance.Random(3)]
)
def test_importance_has_a_number_for_each_channel(importance):
    model = build_model(MODELS["residual"])
    graph = channel_graph(model)
    result = importance(model, graph)
    assert [values.shape for values in result] == [
        g.channels.shape for g in graph.groups
    ]
    assert all(np.isfinite(values).all() for values in result)


def test_group_norm_is_over_all_weights_of_a_channel():
    model = build_model(lambda x: head(conv(x)))
    model.layers[1].kernel.assign(np.ones((3, 3, 3, 8)) * np.arange(8))
    model.layers[-1].kernel.assign(np.zeros((8, 4)))
    graph = channel_graph(model)
    index = [group.name for group in graph.groups].index("conv2d")
    result = importance.GroupNorm()(model, graph)[index]
    np.testing.assert_allclose(result, np.sqrt(27) * np.arange(8), rtol=1e-6)


def test_normalization_scale_is_the_magnitude_of_gamma():
    model = build_model(MODELS["plain"])
    graph = channel_graph(model)
    index = [group.name for group in graph.groups].index("conv2d_1")
    result = importance.NormalizationScale()(model, graph)[index]
    gamma = keras.ops.convert_to_numpy(model.get_layer("batch_normalization_1").gamma)
    np.testing.assert_allclose(result, np.abs(gamma))


@pytest.mark.tensorflow
def test_a_budget_of_bytes_is_met(tmp_path):
    model = vgg()
    chosen = plan(model, n_bytes=0.5)
    sizes = []
    for one in (model, cut(model, chosen)):
        path = tmp_path / "model.tflite"
        kmn.export_tflite(one, path, representative_data=images(8))
        sizes.append(path.stat().st_size)
    assert 0.4 < sizes[1] / sizes[0] <= 0.5


@pytest.mark.tensorflow
def test_a_budget_of_latency_is_met():
    """Times vary, so the tolerance is wide."""
    chosen = plan(vgg(64), latency=0.5)
    assert 0.1 < chosen.macs[1] / chosen.macs[0] < 0.8


@pytest.mark.tensorflow
def test_a_budget_of_bytes_that_cannot_be_met_is_rejected():
    with pytest.raises(ValueError, match="share of n_bytes"):
        plan(vgg(), n_bytes=0.01)


def test_a_model_of_open_size_has_no_macs():
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, head(conv(conv(inputs, 16))))
    with pytest.raises(ValueError, match=r"Give `keras\.Input` sizes"):
        plan(model, macs=0.5)
    with pytest.raises(ValueError, match=r"Give `keras\.Input` sizes"):
        count_macs(model)
    chosen = plan(model, params=0.8)
    assert cut(model, chosen).count_params() <= 0.8 * model.count_params()


def test_layers_outside_the_scope_are_protected():
    chosen = plan(
        vgg(), macs=0.4, scope=kmn.layers.Scope(without=["conv2d", "conv2d_3"])
    )
    assert {"conv2d", "conv2d_3"}.isdisjoint(chosen.kept)
    assert chosen.protected["conv2d"] == "outside the scope"
    assert chosen.macs[1] <= 0.4 * chosen.macs[0]
    with pytest.raises(ValueError, match="'conv9'"):
        plan(vgg(), macs=0.4, scope=kmn.layers.Scope(without=["conv9"]))


def nested_text_model():
    inputs = keras.Input((5, 8))
    x = layers.Dense(8, name="inner_dense")(inputs)
    inner = keras.Model(inputs, layers.Conv1D(8, 3, name="inner_conv")(x))
    tokens = keras.Input((5,), dtype="int32")
    x = layers.Conv1D(12, 2, name="outer")(inner(layers.Embedding(20, 8)(tokens)))
    return keras.Model(tokens, layers.Dense(4, name="head")(layers.Flatten()(x)))


def sequential_model():
    first = layers.Dense(16, "relu", name="first")
    second = layers.Dense(12, "relu", name="second")
    return keras.Sequential([keras.Input((8,)), first, second, layers.Dense(4)])


@pytest.mark.parametrize(
    ("build", "scope", "protected"),
    [
        (vgg, kmn.layers.Scope(first=False), {"conv2d"}),
        (vgg, kmn.layers.Scope(re.compile("[23]$")), {"conv2d_1", "conv2d_3"}),
        (sequential_model, kmn.layers.Scope(last=False), {"second"}),
        (sequential_model, lambda model: kmn.layers.kernels(model)[1:], {"first"}),
        (nested_text_model, kmn.layers.Scope(only=layers.Conv1D), {"inner_dense"}),
        (nested_text_model, kmn.layers.Scope(without="outer"), {"outer"}),
    ],
)
def test_scope_of_a_model_that_is_not_prepared(build, scope, protected):
    """The plan is that of the prepared model, and the model is not changed."""
    model = build()
    options = {"scope": scope, "round_to": 2, "min_channels": 2}
    chosen = plan(model, params=0.9, **options)
    assert not kmn.layers.kernels(model)
    assert protected <= chosen.protected.keys()
    assert chosen.kept.keys().isdisjoint(protected)
    kmn.layers.prepare(model)
    assert plan(model, params=0.9, **options) == chosen


def test_a_plan_is_restored_from_its_configuration_and_repr():
    chosen = plan(vgg(), params=0.9, macs=0.1)
    config = keras.saving.serialize_keras_object(chosen)
    assert keras.saving.deserialize_keras_object(config) == chosen
    assert eval(repr(chosen), vars(plans)) == chosen


@pytest.mark.parametrize("quantity", ["channels", "params", "macs"])
def test_a_plot_has_two_bars_for_each_layer(quantity):
    chosen = plan(vgg(), macs=0.3)
    figure = plot_plan(chosen, quantity=quantity)
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    rows = [getattr(row, quantity) for row in chosen.rows if row.macs[0]]
    assert widths == [before for before, _ in rows] + [after for _, after in rows]


def test_an_unknown_quantity_is_rejected():
    with pytest.raises(ValueError, match="'bytes'"):
        plot_plan(plan(vgg(), macs=0.3), quantity="bytes")


def test_regularization_is_strongest_for_the_smallest_norms():
    model = build_model(lambda x: head(conv(x)))
    kernel = model.layers[1].kernel
    kernel.assign(np.ones((3, 3, 3, 8)) * np.arange(1, 9))
    before = keras.ops.convert_to_numpy(kernel)
    graph, norm = channel_graph(model), importance.GroupNorm(strength=0.01)
    norm.regularize(graph, norm(model, graph))
    left = (keras.ops.convert_to_numpy(kernel) / before)[0, 0, 0]
    assert np.all(np.diff(left) > 0)
    assert left[-1] == pytest.approx(0.99)
    assert left[0] == pytest.approx(0.84)


def test_regularization_moves_scales_to_zero():
    model = build_model(MODELS["plain"])
    gamma = model.get_layer("batch_normalization").gamma
    gamma.assign(np.linspace(-0.2, 0.2, 16))
    importance.NormalizationScale(strength=0.1).regularize(channel_graph(model), None)
    expected = np.sign(np.linspace(-1, 1, 16)) * np.maximum(
        np.abs(np.linspace(-0.2, 0.2, 16)) - 0.1, 0
    )
    result = keras.ops.convert_to_numpy(gamma)
    np.testing.assert_allclose(result, expected, atol=1e-6)


@pytest.mark.parametrize("budget", [{"n_bytes": 0}, {"latency": -0.5}, {"n_bytes": 2}])
def test_an_invalid_measured_budget_is_rejected(budget):
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        plan(vgg(), **budget)
