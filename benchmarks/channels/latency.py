"""Predicted against measured latency of networks with fewer channels.

    python -m benchmarks.channels.latency

The times of single operators are measured first. From these, plans are made of each
network: to shares of the time, of the multiply-accumulates and of both counts, in
several multiples of channels. All are cut, exported to int8 files and run in LiteRT on
one thread. In each round every file runs some times in a row, one file after the other,
and the lowest time counts, since other processes only add to it; a share of the time is
the median of the rounds' ratios to the whole network.
"""

import argparse
import itertools
import json
import time
from pathlib import Path

import keras
import numpy as np
from scipy import stats

from benchmarks.channels.cut import int8, randomize
from benchmarks.lib import nets
from benchmarks.lib.results import RESULTS_FOLDER
from benchmarks.lib.sections import machine
from keras_micronets import channels
from keras_micronets.channels.operator_times import (
    BLOCKS,
    OperatorTimes,
    held_out_error,
    read_table,
    terms_of,
)
from keras_micronets.edge.operators import time_operators
from keras_micronets.export.tflite_model import TFLiteModel

RESULTS = RESULTS_FOLDER / "latency.json"
N_ROUNDS, N_RUNS, SECONDS = 41, 30, 0.002


def mobilenet(alpha):
    return keras.applications.MobileNetV2(
        weights=None, alpha=alpha, input_shape=(96, 96, 3), classes=10
    )


NETS = {
    "ResNet-8": nets.resnet8,
    "DS-CNN": nets.ds_cnn,
    "MobileNetV2 0.35": lambda: mobilenet(0.35),
    "MobileNetV2": lambda: mobilenet(1.0),
    "VGG-16-BN": nets.vgg16,
}
SHARES = (0.9, 0.75, 0.6, 0.5, 0.4, 0.3)
ASKED = [
    *({"latency": share} for share in SHARES),
    *({"latency": share, "round_to": 4, "min_channels": 4} for share in SHARES[1:4]),
    *({"macs": share} for share in (0.75, 0.5, 0.25)),
    *({"macs": share, "params": share, "round_to": 4} for share in (0.7, 0.4)),
    *({"macs": share, "allocation": "uniform"} for share in (0.6, 0.35)),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    arguments = parser.parse_args()
    operators = arguments.out.with_name("operator_times.json")
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    results |= {"machine": machine(), "nets": results.get("nets", {})}
    start = time.perf_counter()
    time_operators(operators)
    results["seconds"] = round(time.perf_counter() - start, 1)
    results["operators"] = errors(operators)
    for name in arguments.nets:
        results["nets"][name] = net(NETS[name](), operators)
        print(name, json.dumps(results["nets"][name]), flush=True)
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    operators.unlink()
    print(table(results))


def net(model, operators):
    """Plan, cut, export and time one network."""
    keras.utils.set_random_seed(0)
    randomize(model, 0)
    planner = channels.Planner(model, operator_times=OperatorTimes(operators))
    rows, refused, files = [], [], [int8(model)]
    for asked in ASKED:
        start = time.perf_counter()
        try:
            plan = channels.plan(model, **asked, operator_times=operators)
            took = time.perf_counter() - start
            files.append(int8(channels.cut(model, plan)))
        except ValueError as error:  # not reachable, or random weights are too large
            refused.append({"asked": asked, "error": str(error)})
            continue
        rows.append(
            {
                "asked": asked,
                "macs": plan.macs[1] / plan.macs[0],
                "params": plan.params[1] / plan.params[0],
                "predicted_ms": predict(planner, plan),
                "seconds": round(took, 2),
            }
        )
    times = measure([TFLiteModel(file, "model").invocation() for file in files])
    ratios = times[:, 1:] / times[:, :1]
    for row, ratio, ms in zip(rows, ratios.T, times[:, 1:].T, strict=True):
        low, high = np.percentile(ratio, [25, 75])
        row |= {"measured": float(np.median(ratio)), "quartiles": [low, high]}
        row["measured_ms"] = float(np.median(ms))
    full, measured = predict(planner), float(np.median(times[:, 0]))
    for row in rows:
        row["predicted"] = row["predicted_ms"] / full
    whole = {"predicted_ms": full, "measured_ms": measured}
    return {"whole": whole, "plans": rows, "refused": refused}


def predict(planner, plan=None):
    """Return the predicted milliseconds of a plan, or of the whole network."""
    kept = {} if plan is None else plan.kept
    groups = planner.graph.groups
    widths = [len(kept.get(group.name, group.channels)) for group in groups]
    return planner.counts.total("latency", np.array(widths))


def errors(operators):
    """Return the held-out errors of three formulas, by operator."""
    return {
        name: {
            "times": len(times),
            "MACs and bytes": held_out_error(simple_terms(sizes), times),
            "all terms": held_out_error(terms_of(sizes, (1, 1, 1)), times),
            "in blocks": min(
                held_out_error(terms_of(sizes, blocks), times)
                for blocks in itertools.product(*BLOCKS)
            ),
        }
        for name, (sizes, times) in read_table(operators).items()
    }


def simple_terms(sizes):
    """Return one, the multiply-accumulates, and the bytes read and written."""
    read, positions, taps, inputs, outputs = sizes.T
    weights = taps * inputs * outputs
    n_bytes = weights + read * np.where(inputs == 1, outputs, inputs)
    return np.stack([read**0, positions * weights, n_bytes + positions * outputs], 1)


def measure(tasks):
    """Return the milliseconds of each task in each round, `(rounds, tasks)`."""
    return 1000 * np.array([[seconds(task) for task in tasks] for _ in range(N_ROUNDS)])


def seconds(task):
    """Return the lowest time of a task that is repeated: other processes only add."""
    task()
    times, end = [], time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(times) < N_RUNS:
        start = time.perf_counter()
        task()
        times.append(time.perf_counter() - start)
    return min(times)


def table(results):
    """Return the results as tables for the documentation."""
    lines = ["| operator | sizes measured | MACs and bytes | all terms | in blocks |"]
    lines.append("|---|---|---|---|---|")
    for name, row in results["operators"].items():
        cells = [f"{row[x]:.1%}" for x in ("MACs and bytes", "all terms", "in blocks")]
        lines.append(f"| {' | '.join([name, str(row['times']), *cells])} |")
    lines += ["", *_nets(results["nets"]), "", *_reached(results["nets"])]
    return "\n".join(lines)


def _nets(rows):
    yield (
        "| network | plans | rank correlation | of the MACs | error of the share "
        "| largest | error of the ms | whole, predicted ms | measured ms |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    every = {"all": {"plans": [p for row in rows.values() for p in row["plans"]]}}
    for name, row in (rows | every).items():
        plans = row["plans"]
        share, macs, ms = (
            np.array([[plan[a], plan[b]] for plan in plans]).T
            for a, b in (
                *(("predicted", "measured"), ("macs", "measured")),
                ("predicted_ms", "measured_ms"),
            )
        )
        error, of_ms = (np.abs(x[0] / x[1] - 1) for x in (share, ms))
        cells = [name, str(len(plans))]
        cells += [f"{stats.spearmanr(*x)[0]:.3f}" for x in (share, macs)]
        cells += [f"{np.median(error):.1%}", f"{error.max():.1%}"]
        cells += [f"{np.median(of_ms):.1%}"]
        whole = row.get("whole")
        cells += [f"{x:.3g}" for x in whole.values()] if whole else ["", ""]
        yield f"| {' | '.join(cells)} |"


def _reached(rows):
    yield "| network | time asked | measured | quartiles | MACs | parameters | s |"
    yield "|---|---|---|---|---|---|---|"
    for name, row in rows.items():
        refused = [x["asked"] for x in row["refused"] if "can meet" in x["error"]]
        for asked in ({"latency": share} for share in SHARES):
            if asked in refused:
                yield f"| {name} | {asked['latency']:.0%} | not reachable | | | | |"
        for plan in row["plans"]:
            if plan["asked"].keys() == {"latency"}:
                low, high = plan["quartiles"]
                cells = [
                    name,
                    f"{plan['asked']['latency']:.0%}",
                    f"{plan['measured']:.1%}",
                ]
                cells += [f"{low:.1%} to {high:.1%}", f"{plan['macs']:.1%}"]
                cells += [f"{plan['params']:.1%}", f"{plan['seconds']:.1f}"]
                yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
