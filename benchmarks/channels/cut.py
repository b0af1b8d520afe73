"""Correctness of channel pruning, and its effect on latency.

    python -m benchmarks.channels.cut

Five parts, each written to one results file as it completes:

* `budgets`: the rates of papers, each requested in one call; counts are checked in
  the saved model and, operator by operator, in the file.
* `architectures`: families of `keras.applications` at 96 x 96 pixels with random
  weights and normalisation, cut to half of their multiply-accumulates. Predictions
  are compared with those of the masked model; the cut model is saved, loaded,
  exported to int8 and run, and the plan is compared with the counts of the loaded
  model and of the file.
* `counts`: the multiply-accumulates that `count_macs` and the int8 files have, for the
  networks of `export/parity.py`.
* `graphs`: the same comparison for 2,000 small random networks with random budgets.
  Each channel that is protected in one of the first 300 is cut alone, against the
  protection: if the cut network predicts the same, it was protected in vain.
* `latency`: int8 files in LiteRT, one thread, whole and cut interleaved; the median
  of the ratios of seven rounds.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

import keras_micronets as kmn
from benchmarks.channels.cut_report import table
from benchmarks.channels.random_graphs import random_graph
from benchmarks.export import parity
from benchmarks.export.parity_nets import NETS
from benchmarks.lib import nets
from benchmarks.lib.file_macs import macs_of_file
from benchmarks.lib.results import RESULTS_FOLDER
from keras_micronets import channels
from keras_micronets.channels.cut import cut_by_graph
from keras_micronets.edge.bench import interleaved_medians
from keras_micronets.edge.member import Member
from keras_micronets.export.tflite_model import TFLiteModel

RESULTS = RESULTS_FOLDER / "channels.json"
SIDE, N_CLASSES, N_COMPARED = 96, 10, 4
FAMILIES = (
    *("VGG16", "ResNet50", "ResNet50V2", "MobileNet", "MobileNetV2"),
    *("MobileNetV3Small", "EfficientNetB0", "EfficientNetV2B0", "DenseNet121"),
    *("Xception", "InceptionV3", "InceptionResNetV2", "NASNetMobile", "ConvNeXtTiny"),
)
UNKNOWN = "inputs, or of unknown origin"
N_GRAPHS, N_SEARCHED, N_ROUNDS, N_RUNS = 2000, 300, 7, 15


def main():
    arguments = parse()
    path = arguments.out
    results = json.loads(path.read_text()) if path.exists() else {}

    def save():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n")

    for part in arguments.parts:
        for name, row in PARTS[part](results.setdefault(part, {})):
            results[part][name] = row
            print(name, json.dumps(row), flush=True)
            save()
    print(table(results))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def budgets(done):
    for name, (make, asked) in BUDGETS.items():
        if name not in done:
            yield name, budget(make(), asked)


def budget(model, asked):
    """Plan and cut a network to what is asked for, and count what came."""
    keras.utils.set_random_seed(0)
    start = time.perf_counter()
    plan = channels.plan(model, **asked)
    small = channels.cut(model, plan)
    seconds = time.perf_counter() - start
    return {
        "asked": asked,
        "params": plan.params[1] / plan.params[0],
        "macs": plan.macs[1] / plan.macs[0],
        "before": [plan.params[0], plan.macs[0]],
        "after": [plan.params[1], plan.macs[1]],
        "seconds": round(seconds, 1),
        **file_of(small, plan),
    }


def architectures(done):
    for family in FAMILIES:
        if family not in done:
            yield family, architecture(family)


def architecture(family):
    """Plan, cut, compare, save, load and export one of Keras's applications."""
    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, family)(
        weights=None,
        input_shape=(SIDE, SIDE, 3),
        classes=N_CLASSES,
        classifier_activation=None,
    )
    randomize(model, 0)
    start = time.perf_counter()
    graph = channels.channel_graph(model)
    plan = channels.plan(model, macs=0.5)
    small = channels.cut(model, plan)
    seconds = time.perf_counter() - start
    return {
        **compare(model, small, graph, plan),
        "touched": touched(graph),
        "unknown": dict(graph.unknown),
        "seconds": round(seconds, 1),
        **file_of(small, plan),
    }


def touched(graph):
    """The share of the channels that kernels make, but for the outputs', that are free.

    Classes are not there to be cut.
    """
    made = made_channels(graph)
    free = (len(group.channels) for group in made if group.reason is None)
    return sum(free) / max(sum(len(group.channels) for group in made), 1)


def made_channels(graph):
    """The groups that kernels make, but for those of the outputs."""
    return [
        group
        for group in graph.groups
        if any(graph.nodes[index].role == "produces" for index in group.nodes)
        and group.reason != "the model returns them"
    ]


def in_vain(model, graph):
    """The share of the same channels that are protected, and yet can be cut.

    Behind what protects them they may have other numbers, so each is also cut together
    with that of the same place of each group of unknown origin.
    """
    made = made_channels(graph)
    unknown = [g for g in graph.groups if g.reason == UNKNOWN]
    found = 0
    for group in made:
        if group.reason is not None:
            n = len(group.channels)
            alike = [other for other in unknown if len(other.channels) == n]
            attempts = [[group], *([group, other] for other in alike)]
            found += sum(
                any(can_be_cut(model, graph, groups, channel) for groups in attempts)
                for channel in range(n)
            )
    return found / max(sum(len(group.channels) for group in made), 1)


def can_be_cut(model, graph, groups, channel):
    """Whether a network without one channel of protected groups passes the check."""
    free = [replace(g, reason=None) if g in groups else g for g in graph.groups]
    kept = tuple(i for i in range(len(groups[0].channels)) if i != channel)
    plan = channels.Plan({g.name: kept for g in groups}, (), (0, 0), (0, 0), {})
    try:
        cut_by_graph(model, replace(graph, groups=tuple(free)), plan)
    except Exception:  # what cannot be cut fails in many ways
        return False
    return True


def compare(model, small, graph, plan):
    """Compare a cut model with the whole one, and what was planned with what came."""
    x = inputs(model)
    averages = any(node.role == "averages" for node in graph.nodes)
    whole, expected, found = (
        predictions(one, x) for one in (model, zeroed(model, graph, plan), small)
    )
    return {
        "params": plan.params[1] / plan.params[0],
        "macs": plan.macs[1] / plan.macs[0],
        "params_agree": bool(small.count_params() == plan.params[1]),
        "difference": largest_difference(found, expected),
        "of_whole": largest_difference(found, whole),
        "averages": averages,
    }


def largest_difference(found, expected):
    """Return the largest difference, relative to the largest value."""
    return max(
        float(np.abs(f - e).max() / max(np.abs(e).max(), 1e-12))
        for f, e in zip(found, expected, strict=True)
    )


def inputs(model):
    shape = (N_COMPARED, *model.input_shape[1:])
    return np.random.default_rng(1).uniform(0, 255, shape).astype("float32")


def predictions(model, x):
    outputs = keras.tree.flatten(model(x, training=False))
    return [keras.ops.convert_to_numpy(y) for y in outputs]


def randomize(model, seed):
    """Give a model biases and normalisation as if it had been trained."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        name = weight.path.rpartition("/")[2]
        if name in ("moving_variance", "gamma"):
            values = rng.uniform(0.5, 1.5, weight.shape)
            signs = rng.choice([-1, 1], weight.shape, p=[0.2, 0.8])
            weight.assign(values * (signs if name == "gamma" else 1))
        elif name in ("moving_mean", "beta", "bias"):
            weight.assign(rng.normal(0, 0.3, weight.shape))
    normalize(model)


def normalize(model):
    """Set statistics to those of data: signals then reach a deep network's end."""
    norms = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    for layer in norms:
        layer.momentum = 0.0
    model(inputs(model), training=True)
    for layer in norms:
        layer.momentum = 0.99


def zeroed(model, graph, plan):
    """Return the whole model with zeros where kernels read what is cut."""
    keep = plan.kept_channels(graph)
    values = {id(v): keras.ops.convert_to_numpy(v).copy() for v in model.variables}
    for node in graph.nodes:
        if node.role == "reads":
            values[id(node.weight)] *= node.broadcast(keep[node.channels])
    copy = keras.models.clone_model(model)
    for ours, theirs in zip(copy.variables, model.variables, strict=True):
        ours.assign(values[id(theirs)])
    return copy


def file_of(model, plan):
    """Save and load a model, export it to int8, and run the file."""
    data = inputs(model)
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model.keras")
        model = keras.models.load_model(Path(folder) / "model.keras")
        path = Path(folder) / "model.tflite"
        report = kmn.export_tflite(model, path, representative_data=data)
        raw, macs = Member(path).predict_raw(data), macs_of_file(path.read_bytes())
    return {
        "runs": raw.shape == (len(data), N_CLASSES),
        "bytes": report.n_bytes,
        "counts_agree": bool(
            model.count_params() == plan.params[1] and macs == plan.macs[1]
        ),
    }


def counts(done):
    for name, make in NETS.items():
        if name not in done:
            yield name, count(make())


def count(model):
    """Count a network before it is exported, and its int8 file."""
    parity.randomize(model, parity.inputs(model, parity.N_LEARNED_FROM, seed=1))
    counted = channels.count_macs(model)
    parity.learn_ranges(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        parity.export(model, path)
        return {"counted": counted, "file": macs_of_file(path.read_bytes())}


def graphs(done):
    for seed in range(N_GRAPHS):
        if str(seed) not in done:
            yield str(seed), graph_row(seed)


def graph_row(seed):
    """Cut a random network to a random budget that it can be cut to."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    model = random_graph(seed)
    randomize(model, seed)
    rng = np.random.default_rng(seed)
    graph = channels.channel_graph(model)
    budget = {str(rng.choice(["params", "macs"])): float(rng.uniform(0.3, 0.9))}
    options = {
        "round_to": 1,
        "min_channels": 1,
        "importance": channels.importance.Random(seed),
    }
    try:
        plan = channels.plan(model, **budget, **options)
    except ValueError as error:
        return {"refused": str(error)}
    small = cut_by_graph(model, graph, plan)
    row = {**compare(model, small, graph, plan), "touched": touched(graph)}
    return row | ({"in_vain": in_vain(model, graph)} if seed < N_SEARCHED else {})


def latency(done):
    for name, make in LATENCY.items():
        if f"{name}, {ASKED[0][0]}" not in done:
            for asked, row in latency_rows(make()).items():
                yield f"{name}, {asked}", row


def latency_rows(model):
    """Time the int8 files of a model and of all that is cut from it, in turns."""
    randomize(model, 0)
    plans, refused = {}, {}
    for name, asked in ASKED:
        try:
            plans[name] = channels.plan(model, **asked)
        except ValueError as error:
            refused[name] = {"refused": str(error)}
    files = [int8(model), *(int8(channels.cut(model, p)) for p in plans.values())]
    tasks = [TFLiteModel(file, "model").invocation() for file in files]
    rounds = [interleaved_medians(tasks, repeats=N_RUNS) for _ in range(N_ROUNDS)]
    whole, *others = np.array(rounds).T
    found = refused | {
        name: {
            "macs": plan.macs[1] / plan.macs[0],
            "params": plan.params[1] / plan.params[0],
            "latency": float(np.median(times / whole)),
            "lowest": float(np.min(times / whole)),
            "highest": float(np.max(times / whole)),
            "ms": [float(np.median(whole)), float(np.median(times))],
        }
        for (name, plan), times in zip(plans.items(), others, strict=True)
    }
    return {name: found[name] for name, _ in ASKED}


def int8(model):
    data = np.random.default_rng(0).normal(0, 1, (50, *model.input_shape[1:]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        kmn.export_tflite(model, path, representative_data=data.astype("float32"))
        return path.read_bytes()


_WIDE = {"round_to": 32, "min_channels": 32}
ASKED = [
    (f"{name} of {of}", {**dict.fromkeys(kinds, share), **options})
    for name, share in (("half", 0.5), ("a quarter", 0.25))
    for of, kinds, options in (
        ("the MACs", ["macs"], {}),
        ("MACs and parameters", ["macs", "params"], {}),
        ("both, in multiples of 32", ["macs", "params"], _WIDE),
        ("the time", ["latency"], {}),
    )
]
BUDGETS = {
    "VGG-16-BN": (nets.vgg16, {"params": 0.059, "macs": 0.238}),
    "ResNet-56, 2.1x": (nets.resnet56, {"macs": 1 / 2.1}),
    "ResNet-56, 2.6x": (nets.resnet56, {"macs": 1 / 2.6}),
    "ResNet-8, 2x": (nets.resnet8, {"macs": 0.5}),
    "ResNet-8, 4x": (nets.resnet8, {"macs": 0.25}),
}
LATENCY = {
    "VGG-16-BN": nets.vgg16,
    "ResNet-56": nets.resnet56,
    "MobileNetV2": lambda: keras.applications.MobileNetV2(
        weights=None, input_shape=(SIDE, SIDE, 3), classes=N_CLASSES
    ),
}
PARTS = {
    "budgets": budgets,
    "architectures": architectures,
    "counts": counts,
    "graphs": graphs,
    "latency": latency,
}


if __name__ == "__main__":
    main()
