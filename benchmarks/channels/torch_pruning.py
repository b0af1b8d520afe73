"""Architectures that are hard to cut: here and in Torch-Pruning.

    pip install torch-pruning
    python -m benchmarks.channels.torch_pruning

The same code builds each network with Keras and with PyTorch. Weights are distinct, so
those of a cut network show which of the whole one's it kept. A cut is exact if it
predicts what the whole network does with zeros in place of all other weights of
kernels. Torch-Pruning removes half of the channels of each of its groups, ours those
that leave half of the multiply-accumulates, or as few as can be reached. A channel
counts as free if a cut may remove it: Torch-Pruning's share is twice what it removed.
The channels of the outputs are not counted. Where a layer takes a mean over channels,
as layer normalisation does, that of a cut network is over the kept ones, which zeros do
not show: `channels.cut` compares such networks itself.
"""

import argparse
import time
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np

from benchmarks.channels.cut import largest_difference, touched
from benchmarks.channels.hard_nets import NETS
from benchmarks.channels.keras_builder import KerasBuilder
from benchmarks.lib.results import RESULTS_FOLDER, ResultsFile, commit
from keras_micronets import channels

RESULTS = RESULTS_FOLDER / "torch_pruning.json"
N_COMPARED = 4
TOLERANCE = 1e-4


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    options.add_argument("--out", type=Path, default=RESULTS)
    arguments = options.parse_args()
    file = ResultsFile(arguments.out, {"torch_pruning": version("torch-pruning")})
    for name in arguments.nets:
        for library, cut in (("ours", ours), ("Torch-Pruning", theirs)):
            about = {"net": name, "library": library}
            if not file.has(about):
                file.add({**about, "commit": commit(), **tried(cut, NETS[name])})
    print(table(file.results))


def tried(cut, make):
    try:
        return cut(make)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}


def ours(make):
    net = KerasBuilder()
    model = net.model(*make(net))
    for weight in model.weights:
        weight.assign(distinct(weight.shape, weight.path))
    start = time.process_time()
    graph = channels.channel_graph(model)
    plan = plan_of(model)
    small = channels.cut(model, plan)
    seconds = time.process_time() - start
    whole = [keras.ops.convert_to_numpy(weight) for weight in model.weights]
    left = [keras.ops.convert_to_numpy(weight) for weight in small.weights]
    x = [inputs_of(tensor.shape[1:]) for tensor in model.inputs]
    found = small.predict(x, verbose=0)
    model.set_weights([kept_of(*pair) for pair in zip(whole, left, strict=True)])
    expected = model.predict(x, verbose=0)
    return {
        "params": small.count_params() / model.count_params(),
        "difference": difference(found, expected),
        "averages": averages(graph, plan),
        "seconds": round(seconds, 2),
        "free": touched(graph),
    }


def plan_of(model):
    """Plan half of the multiply-accumulates, or as few as can be reached."""
    for macs in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95):
        try:
            return channels.plan(model, macs=macs, round_to=1, min_channels=1)
        except ValueError as error:
            refused = error
    raise refused


def averages(graph, plan):
    """Whether a layer takes a mean over channels of which some are cut."""
    keep = plan.kept_channels(graph)
    nodes = (node for node in graph.nodes if node.role == "averages")
    return not all(keep[node.channels].all() for node in nodes)


def theirs(make):
    import torch  # needed here only: the table is made without
    import torch_pruning

    from benchmarks.channels.torch_builder import TorchBuilder

    net = TorchBuilder()
    inputs, outputs = make(net)
    model = net.model(inputs, outputs)
    with torch.no_grad():
        for name, weight in [*model.named_parameters(), *model.named_buffers()]:
            if weight.is_floating_point():
                weight.copy_(torch.tensor(distinct(weight.shape, name)))
    x = [torch.tensor(inputs_of(symbol.shape)) for symbol in model.inputs]
    whole = {name: weight.clone() for name, weight in model.state_dict().items()}
    n_whole, made = n_params(model), n_made(model)
    start = time.process_time()
    pruner = torch_pruning.pruner.BasePruner(
        model,
        tuple(x) if len(x) > 1 else x[0],
        importance=torch_pruning.importance.MagnitudeImportance(),
        pruning_ratio=0.5,
        ignored_layers=model.last_modules(),
        num_heads={
            m: m.num_heads
            for m in model.modules()
            if isinstance(m, torch.nn.MultiheadAttention)
        },
        prune_num_heads=False,
    )
    pruner.step()
    seconds = time.process_time() - start
    with torch.no_grad():
        found = model(*x)
        left = model.state_dict()
        row = {
            "seconds": round(seconds, 2),
            "params": n_params(model) / n_whole,
            "free": 2 * (made - n_made(model)) / made,
        }
        net = TorchBuilder()
        model = net.model(*make(net))
        zeroed = {k: kept_of(w.numpy(), left[k].numpy()) for k, w in whole.items()}
        model.load_state_dict({k: torch.tensor(w) for k, w in zeroed.items()})
        expected = model(*x)
    return {**row, "difference": difference(found, expected)}


def n_params(model):
    return sum(weight.numel() for weight in model.parameters())


def n_made(model):
    """The channels that kernels make, those of the outputs not counted."""
    last = model.last_modules()
    names = ("out_channels", "out_features", "hidden_size", "embed_dim")
    made = 0
    for module in model.modules_used:
        sizes = [getattr(module, name) for name in names if hasattr(module, name)]
        if sizes and not any(module is one for one in last):
            made += sizes[0]
    return made


def distinct(shape, name):
    """Return values in [-0.5, 0.5] of which no two are equal; variances are above 0."""
    n = int(np.prod(shape))
    rng = np.random.default_rng(n)
    values = (rng.permutation(n) + 0.5) / n - 0.5
    values += 1.0 if "var" in name or "gamma" in name else 0.0
    return values.reshape(shape).astype("float32")


def inputs_of(shape):
    rng = np.random.default_rng(1)
    return rng.normal(0, 1, (N_COMPARED, *shape)).astype("float32")


def kept_of(whole, left):
    """Return a kernel with zeros in place of the weights that a cut removed."""
    return np.where(np.isin(whole, left), whole, 0) if whole.ndim > 1 else whole


def difference(found, expected):
    found, expected = (
        [np.asarray(one) for one in (x if isinstance(x, list | tuple) else [x])]
        for x in (found, expected)
    )
    return largest_difference(found, expected)


def table(results):
    """Return the results as a table for the documentation."""
    rows = {(run["net"], run["library"]): run for run in results["runs"]}
    lines = [
        "| architecture | ours: cut | free | parameters left | s "
        "| Torch-Pruning: cut | free | parameters left | s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(net for net, _ in rows):
        cells = [name]
        for library in ("ours", "Torch-Pruning"):
            cells += _cells(rows[name, library])
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cells(row):
    if "error" in row:
        return ["error", "", "", ""]
    outcome = "exact" if row["difference"] < TOLERANCE else f"{row['difference']:.0e}"
    outcome = "mean of the kept" if row.get("averages") else outcome
    shares = (f"{row[name]:.0%}" for name in ("free", "params"))
    return [outcome, *shares, f"{row['seconds']:.2f}"]


if __name__ == "__main__":
    main()
