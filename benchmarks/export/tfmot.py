"""TensorFlow Model Optimization on the networks of `export/parity.py`.

    python -m benchmarks.export.tfmot

Each network is built with `tf_keras`, which tfmot needs, from the same code and with
batch normalisation as if trained; the few functions of `keras.ops` that some networks
use are those of TensorFlow. It goes through the stages in order, up to the first that
fails: `quantize_model`; one training step on 64 inputs with a learning rate of zero;
conversion to int8; loading in LiteRT; comparison of 200 outputs with the rounded
predictions, as in `export/parity.py`. tfmot's moving averages start at -6 and 6 and
would need thousands of steps: in that one step they take the extremes of the batch, as
our observers do. Each network has a process, since LiteRT may crash on a file, and a
limit of processor time. A network in the results file is not run again.
"""

import argparse
import functools
import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest import mock

from benchmarks.callbacks.overhead_sections import nets_of
from benchmarks.export import parity, parity_nets
from benchmarks.lib.results import RESULTS_FOLDER, ResultsFile, commit
from benchmarks.lib.sections import ROOT
from keras_micronets.export.flatbuffer import read_flatbuffer
from keras_micronets.export.tflite_model import TFLiteModel

RESULTS = RESULTS_FOLDER / "tfmot.json"
STAGES = ("quantize_model", "training", "conversion", "loading", "comparison")


def main():
    arguments = parse()
    if arguments.inside:
        run(*arguments.nets, arguments.limit)
        return
    file = ResultsFile(arguments.out, {"limit": arguments.limit})
    for name in arguments.nets:
        if not file.has({"net": name}):
            row = run_in_process(name, arguments.limit)
            file.add({"net": name, "commit": commit(), **row})
    print(table(file.results))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    names = list(parity_nets.NETS)
    parser.add_argument("--nets", nargs="+", choices=names, default=names)
    parser.add_argument("--limit", type=int, default=300, help="seconds of a network")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def run_in_process(name, limit):
    """Run one network in a new process; return the last row that it printed."""
    command = [sys.executable, "-m", "benchmarks.export.tfmot", "--limit", str(limit)]
    done = subprocess.run(
        [*command, "--inside", "--nets", name], cwd=ROOT, stdout=subprocess.PIPE
    )
    rows = [line for line in done.stdout.splitlines() if line.startswith(b"{")]
    row = json.loads(rows[-1]) if rows else {"passed": []}
    if done.returncode == -signal.SIGXCPU:
        row["error"] = f"not finished in {limit} s of processor time"
    elif done.returncode:
        row["error"] = f"the process ended with exit status {done.returncode}"
    return row


def run(name, limit):
    """Take a network through the stages; print the row after each of them."""
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
    framework = framework_of_tfmot()
    here = nets_of(framework, parity)
    nets = nets_of(framework, parity_nets)
    make = {**nets.NETS, "ResNet-8": nets_of(framework).resnet8}[name]
    framework.utils.set_random_seed(0)
    model = make()
    here.randomize(model, here.inputs(model, here.N_LEARNED_FROM, seed=1))
    state, row = SimpleNamespace(model=model, parity=here), {"passed": []}
    for stage in STAGES:
        show(row)  # the last row stays if the process does not return
        try:
            row |= globals()[f"_{stage}"](state) or {}
        except Exception as error:
            row["error"] = first_line(error)
            break
        row["passed"].append(stage)
    show(row)


def first_line(error):
    """Return the first line of an error that says more than where it was raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    where = ("Exception encountered when calling", "in user code:", "File ")
    raised = [x for x in lines if not x.startswith(where)] or lines
    types = [x for x in raised if "in user code:" in lines and "Error: " in x]
    return [*types, *raised, type(error).__name__][0][:300]


def show(row):
    print(json.dumps({**row, "seconds": round(time.process_time(), 1)}), flush=True)


def framework_of_tfmot():
    """Return `tf_keras`, and under the names of Keras 3 what the networks use."""
    import tensorflow as tf
    import tf_keras

    def split(x, indices, axis):
        if isinstance(indices, int):
            return tf.split(x, indices, axis)
        ends = [*indices, x.shape[axis]]
        sizes = [end - start for start, end in zip([0, *ends], ends, strict=False)]
        return tf.split(x, sizes, axis)

    framework = ModuleType("keras")
    vars(framework).update(vars(tf_keras))
    framework.ops = SimpleNamespace(exp=tf.exp, square=tf.square, split=split)
    framework.tree = tf.nest
    framework.config = SimpleNamespace(
        dtype_policy=tf_keras.mixed_precision.global_policy,
        set_dtype_policy=tf_keras.mixed_precision.set_global_policy,
    )
    return framework


def _quantize_model(state):
    import tensorflow_model_optimization as tfmot

    state.quantized = tfmot.quantization.keras.quantize_model(state.model)


def _training(state):
    import tf_keras
    from tensorflow_model_optimization.python.core.quantization.keras import quant_ops

    average = quant_ops.MovingAvgQuantize
    x = state.parity.inputs(state.model, state.parity.N_LEARNED_FROM, seed=2)
    y = state.model.predict(x, verbose=0)
    state.quantized.compile(tf_keras.optimizers.SGD(0.0), "mse")

    @functools.wraps(average)
    def of_this_batch(*arguments, **options):
        return average(*arguments, **{**options, "ema_decay": 0.0})

    with mock.patch.object(quant_ops, "MovingAvgQuantize", of_this_batch):
        state.quantized.fit(x, y, batch_size=len(y), verbose=0)


def _conversion(state):
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(state.quantized)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    state.content = converter.convert()
    flatbuffer = read_flatbuffer(state.content)
    return {
        "operations": sum(flatbuffer.operations.values()),
        "float": sum(flatbuffer.float_operations.values()),
    }


def _loading(state):
    state.file = TFLiteModel(state.content, state.model.name)
    state.file.interpreter.allocate_tensors()


def _comparison(state):
    """Compare the file with what `quantize_model` returned, on the same inputs."""
    model = state.model
    seen = SimpleNamespace(
        inputs=model.inputs, layers=model.layers, predict=state.quantized.predict
    )
    return state.parity.compare(seen, state.file)


def table(results):
    """Return the results as a table for the documentation, ours beside them."""
    ours = json.loads(parity.RESULTS.read_text())
    rows = {row["net"]: row for row in results["runs"]}
    lines = [
        "| net | ours, equal | tfmot: accepted | converts | float operations | equal "
        "| largest |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in (name for name in parity_nets.NETS if name in rows):
        row = rows[name]
        cells = [
            f"{ours[name]['equal']:.2%}",
            _answer(row, "quantize_model"),
            _answer(row, "conversion"),
            row.get("float", ""),
            f"{row['equal']:.2%}" if "equal" in row else "",
            f"{row['largest']:g}" if "equal" in row else "",
        ]
        lines.append(f"| {name} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _answer(row, stage):
    """Return whether a stage passed; nothing where it was not reached."""
    if stage in row["passed"]:
        return "yes"
    return "no" if STAGES.index(stage) == len(row["passed"]) else ""


if __name__ == "__main__":
    main()
