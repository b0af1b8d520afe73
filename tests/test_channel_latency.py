"""Predicted latency: the operators, the fit to a table, and plans within a budget."""

import json
from collections import Counter

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from channel_cases import MODELS, build_model, conv, head, images, normalized
from keras import layers

import keras_micronets as kmn
from keras_micronets.channels import Planner, cut, plan
from keras_micronets.channels.operator_times import OperatorTimes
from keras_micronets.edge import time_operators
from keras_micronets.edge.operators import COLUMNS, OPERATORS

OVERHEAD = 0.05
NAMES = {value: key for key, value in vars(schema.BuiltinOperator).items()}


def write_table(path, time, n=60):
    """Write times of random sizes, by a function of the operator and its sizes."""
    rng = np.random.default_rng(0)
    rows = []
    for operator in OPERATORS:
        rows.append([operator, 1, 1, 1, 1, 0, OVERHEAD])
        for _ in range(n):
            row = [int(x) for x in rng.choice([1, 4, 9, 16, 25, 49, 64, 100], 5)]
            rows.append([operator, *row, OVERHEAD + time(operator, *row)])
    columns = ["operator", *COLUMNS, "milliseconds"]
    path.write_text(json.dumps({"columns": columns, "rows": rows}))
    return path


def by_macs(operator, read, positions, taps, inputs, outputs):
    """A device on which kernels take 1 ns for a product, and the rest no time."""
    is_kernel = operator.startswith(("CONV", "DEPTHWISE", "FULLY"))
    return 1e-6 * positions * taps * inputs * outputs if is_kernel else 0.0


@pytest.fixture
def macs_table(tmp_path):
    return write_table(tmp_path / "table.json", by_macs)


@pytest.mark.parametrize("name", sorted({*MODELS} - {"recurrent", "attention"}))
def test_time_by_products_is_that_of_the_macs(name, macs_table):
    """The multiply-accumulates are counted by other code."""
    times = OperatorTimes(macs_table)
    planner = Planner(build_model(MODELS[name]), operator_times=times, min_channels=2)
    widths = [planner.counts.full]
    if name != "permuted":  # where a cut changes the number of positions, too
        widths.append(planner.min_channels)
    for kept in widths:
        expected = OVERHEAD + 1e-6 * planner.counts.total("macs", kept)
        assert planner.counts.total("latency", kept) == pytest.approx(
            expected, rel=1e-3
        )


def test_layers_without_times_are_named(macs_table):
    inputs = keras.Input((8, 4))
    x = layers.LSTM(8, name="memory")(
        layers.Conv1D(32, 3)(layers.Conv1D(32, 3)(inputs))
    )
    model = keras.Model(inputs, layers.Dense(3)(x))
    with pytest.warns(UserWarning, match="does not include that of memory"):
        found = plan(model, latency=0.9, operator_times=macs_table)
    convolutions = 6 * 3 * 4 * 32 + 4 * 3 * 32 * 32
    expected = OVERHEAD + 1e-6 * (convolutions + 3 * 8)
    assert found.latency[0] == pytest.approx(expected, rel=1e-3)


def test_blocks_are_found_in_the_table(tmp_path):
    """A device that computes 8 inputs and 16 outputs at a time."""

    def time(operator, read, positions, taps, inputs, outputs):
        return 1e-5 * positions * taps * -(-inputs // 8) * -(-outputs // 16)

    times = OperatorTimes(write_table(tmp_path / "table.json", time))
    sizes = [[36, 36, 9, inputs, outputs] for inputs, outputs in ((9, 17), (16, 32))]
    expected = 1e-5 * 36 * 9 * 2 * 2
    np.testing.assert_allclose(times("CONV_2D", sizes), expected, rtol=1e-3)
    smooth = times("CONV_2D", sizes, in_blocks=False)
    np.testing.assert_allclose(smooth[0] / smooth[1], 9 * 17 / (16 * 32), rtol=1e-2)


def two_kernels(x):
    x = normalized(conv(x, 64, use_bias=False))
    return head(normalized(conv(layers.MaxPooling2D()(x), 64)))


@pytest.mark.parametrize("share", [0.8, 0.5, 0.3])
def test_a_budget_of_latency_is_met(share, macs_table):
    model = build_model(two_kernels)
    chosen = plan(model, latency=share, operator_times=macs_table)
    macs = np.array(chosen.macs)
    before, after = OVERHEAD + 1e-6 * macs
    assert chosen.latency == pytest.approx((before, after), rel=1e-4)
    assert share - 0.05 < after / before <= share * (1 + 1e-4)
    assert f"predicted: {before:.4g} > {after:.4g} ms" in str(chosen)


def test_channels_that_take_no_time_are_kept(tmp_path):
    """Blocks of 32 channels: no width within a block is faster than the whole block."""

    def time(operator, read, positions, taps, inputs, outputs):
        return 1e-5 * positions * taps * inputs * -(-outputs // 32)

    table = write_table(tmp_path / "table.json", time)
    model = build_model(two_kernels)
    planner = Planner(model, operator_times=OperatorTimes(table))
    chosen = plan(model, latency=0.7, operator_times=table)
    widths = np.array(
        [len(chosen.kept.get(g.name, g.channels)) for g in planner.graph.groups]
    )
    total = planner.counts.total
    limit = 0.7 * total("latency", planner.counts.full)
    assert total("latency", widths) <= limit
    for index, group in enumerate(planner.graph.groups):
        if group.reason is None and widths[index] < len(group.channels):
            more = widths + 8 * np.eye(len(widths), dtype=int)[index]
            assert total("latency", more) > limit


def test_a_budget_that_cannot_be_met_is_rejected(macs_table):
    with pytest.raises(ValueError, match="latency of 0"):
        plan(build_model(two_kernels), latency=0.01, operator_times=macs_table)


def test_latency_and_macs_are_both_met(macs_table):
    model = build_model(two_kernels)
    chosen = plan(model, latency=0.9, macs=0.4, operator_times=macs_table)
    assert chosen.macs[1] <= 0.4 * chosen.macs[0]
    assert chosen.latency[1] <= 0.9 * chosen.latency[0]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda table: table["rows"].clear(), "no times of ADD"),
        (lambda table: table.update(columns=["ms"]), "other|has the columns"),
        (lambda table: table.pop("rows"), "rows"),
    ],
)
def test_another_file_is_rejected(change, match, macs_table):
    table = json.loads(macs_table.read_text())
    change(table)
    macs_table.write_text(json.dumps(table))
    with pytest.raises(ValueError, match=f"bench --operators(?s:.*){match}"):
        plan(build_model(two_kernels), latency=0.5, operator_times=macs_table)


def test_a_planner_without_times_rejects_a_budget_of_latency():
    planner = Planner(build_model(two_kernels))
    with pytest.raises(ValueError, match="`operator_times`"):
        planner.limits(latency=0.5)


def excited(x):
    """A depthwise kernel, gates and unfused activations."""
    x = normalized(layers.DepthwiseConv2D(3, 2, padding="same")(conv(x, 16)))
    gate = conv(
        layers.GlobalAveragePooling2D(keepdims=True)(x), 8, 1, activation="relu"
    )
    x = layers.Multiply()([x, conv(gate, 16, 1, activation="sigmoid")])
    x = layers.AveragePooling2D(2)(layers.Activation("silu")(conv(x, 24, 1)))
    x = layers.Activation("hard_silu")(layers.Concatenate()([x, conv(x, 8)]))
    return head(layers.MaxPooling2D()(layers.Add()([x, conv(x, 32)])))


@pytest.mark.tensorflow
def test_operators_are_those_of_the_file(macs_table, tmp_path):
    """Types and sizes, for the whole network and for one that is cut."""
    model = build_model(excited, shape=(16, 16, 3))
    planner = Planner(model, operator_times=OperatorTimes(macs_table), min_channels=2)
    chosen = plan(model, macs=0.4, min_channels=2, round_to=1)
    widths = [len(chosen.kept.get(g.name, g.channels)) for g in planner.graph.groups]
    for one, kept in ((model, planner.counts.full), (cut(model, chosen), widths)):
        path = tmp_path / "model.tflite"
        kmn.export_tflite(one, path, representative_data=images(8, (16, 16, 3)))
        assert operators(planner.counts.latency, kept) == operators_of(path)


def operators(latency, kept):
    """Return what is added up, by calling it with a table that notes its arguments."""
    found = Counter()

    class Noted:
        overhead = 0.0

        def __call__(self, name, sizes, in_blocks=True):
            found.update((name, *map(int, row)) for row in sizes)
            return np.zeros(len(sizes))

    latency._times = Noted()
    latency.total(np.array(kept))
    return found


def operators_of(path):
    """Read the same from a file; its concatenations count as additions."""
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes())
    (graph,) = model.subgraphs
    found = Counter()
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        name = NAMES[max(code.builtinCode, code.deprecatedBuiltinCode)]
        tensors = [graph.tensors[i].shape for i in operator.inputs if i >= 0]
        read, made = tensors[0], graph.tensors[operator.outputs[0]].shape
        positions, outputs = int(np.prod(made[1:-1])), made[-1]
        taps, inputs = 1, 1
        if name in ("CONV_2D", "FULLY_CONNECTED"):
            taps, inputs = np.prod(tensors[1][1:-1]), tensors[1][-1]
        elif name == "DEPTHWISE_CONV_2D":
            taps = np.prod(tensors[1][1:-1])
        elif "POOL" in name:
            taps = operator.builtinOptions.filterHeight**2
        elif name == "CONCATENATION":
            name = "ADD"
        if name == "CONV_2D" and positions * taps == 1:
            name = "FULLY_CONNECTED"
        sizes = (np.prod(read[1:-1]), positions, taps, inputs, outputs)
        found[(name, *map(int, sizes))] += 1
    return found


def test_times_of_operators_are_measured(tmp_path):
    """Much larger operators take longer; the table is the one that a plan reads."""
    path = tmp_path / "operators.json"
    time_operators(path, repeats=1)
    table = json.loads(path.read_text())
    counts = Counter(row[0] for row in table["rows"])
    assert counts == {name: number for name, (number, _) in OPERATORS.items()}
    times = OperatorTimes(path)
    small, large = times("CONV_2D", [[16, 16, 9, 16, 16], [1024, 1024, 9, 128, 128]])
    assert 100 * small < large < 1000
    assert [*tmp_path.iterdir()] == [path]


def test_times_of_operators_need_repeats(tmp_path):
    with pytest.raises(ValueError, match="repeats=0"):
        time_operators(tmp_path / "operators.json", repeats=0)


def test_this_machine_is_measured_without_a_table():
    chosen = plan(build_model(two_kernels, shape=(32, 32, 3)), latency=0.6)
    before, after = chosen.latency
    assert 0 < after <= 0.6 * before < 100
    assert OperatorTimes.of_this_machine() is OperatorTimes.of_this_machine()


def test_a_plan_with_a_latency_is_restored():
    chosen = kmn.channels.Plan({}, (), (1, 1), (1, 1), {}, latency=(1.5, 0.5))
    assert kmn.channels.Plan.from_config(chosen.get_config()) == chosen
    assert (
        keras.saving.deserialize_keras_object(
            keras.saving.serialize_keras_object(chosen)
        )
        == chosen
    )
