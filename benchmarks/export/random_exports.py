"""Agreement of int8 files with Keras for random networks.

    python -m benchmarks.export.random_exports

500 small random networks with every merge, arithmetic, splits, slices, shared layers,
nested models and outputs that other layers read. Each learns ranges, is exported and
run; values of the file and of Keras are compared. The exports run in another process,
which is started again if a file ends it. Rows name the steps of which a network was
made; those in the results file are kept.
"""

import argparse
import collections
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import keras
import numpy as np
from keras import layers, ops

import keras_micronets as kmn
from benchmarks.lib.random_graphs import GraphMaker
from benchmarks.lib.results import RESULTS_FOLDER, commit
from keras_micronets.export.tflite_model import TFLiteModel

RESULTS = RESULTS_FOLDER / "random_exports.json"
N_GRAPHS, N_SAMPLES = 500, 64
#: A network agrees if this share of the values of each output is equal.
AGREES = 0.99


class ExportMaker(GraphMaker):
    """Adds what matters to files: arithmetic, splits, and outputs in the middle."""

    def __init__(self, rng):
        super().__init__(rng)
        self.steps = []

    def step(self, tensors):
        x = self.pick(tensors[-3:])
        steps = {
            "three": lambda: self.three(x, tensors),
            "arithmetic": lambda: self.arithmetic(x),
            "split": lambda: self.split(x),
            "slice": lambda: self.slice(x),
            "shuffle": lambda: self.shuffle(x),
            "where": lambda: self.where(x),
            "elementwise": lambda: self.elementwise(x),
        }
        if self.rng.random() < 0.6:
            self.steps.append("layer")
            return super().step(tensors)
        name = [*steps][self.rng.integers(len(steps))]
        self.steps.append(name)
        return steps[name]()

    def three(self, x, tensors):
        others = [self.convolution(self.pick(tensors), x.shape[-1]) for _ in range(2)]
        merge = (layers.Add, layers.Multiply, layers.Average, layers.Maximum)
        return merge[self.rng.integers(4)]()([x, *others])

    def arithmetic(self, x):
        forms = (
            lambda: x * 2 + 1,
            lambda: (x - 0.5) * 0.25,
            lambda: 1 - ops.sigmoid(x),
            lambda: x * ops.sigmoid(x),
            lambda: ops.relu(x + 3) / 6,
        )
        return forms[self.rng.integers(len(forms))]()

    def split(self, x):
        half = x.shape[-1] // 2
        if x.shape[-1] % 2:
            return layers.Concatenate()([x[..., half:], x[..., :half]])
        a, b = ops.split(x, 2, axis=-1)
        return layers.Concatenate()([self.convolution(b), a])

    def slice(self, x):
        forms = (
            lambda: x[..., 1:],
            lambda: x[..., ::2],
            lambda: layers.ZeroPadding2D(1)(layers.Cropping2D(1)(x)),
        )
        return forms[self.rng.integers(len(forms))]()

    def shuffle(self, x):
        channels = x.shape[-1]
        groups = 2 if channels % 2 == 0 else 1
        x = layers.Reshape((8, 8, groups, channels // groups))(x)
        x = layers.Permute((1, 2, 4, 3))(x)
        return layers.Reshape((8, 8, channels))(x)

    def where(self, x):
        return ops.where(x > 0, x, 0.1 * x)

    def elementwise(self, x):
        forms = (ops.abs, ops.square, ops.negative, ops.tanh, ops.relu6, ops.silu)
        return forms[self.rng.integers(len(forms))](x)

    def make(self):
        model = super().make()
        if self.rng.random() < 0.3:  # an output that other layers read
            inner = [x.output for x in model.layers[1:] if len(x.output.shape) == 2]
            if inner:
                extra = inner[self.rng.integers(len(inner))]
                outputs = [*model.outputs, extra]
                model = keras.Model(model.inputs, list(dict.fromkeys(outputs)))
        return model


def random_model(seed):
    """Return a random network and the names of its steps."""
    keras.utils.set_random_seed(seed)
    maker = ExportMaker(np.random.default_rng(seed))
    return maker.make(), maker.steps


def row(seed, folder):
    """Train ranges of a random network, export it, and compare."""
    model, steps = random_model(seed)
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(3 * N_SAMPLES, *model.input_shape[1:])).astype("float32")
    preparation = kmn.layers.prepare(model, quantize=True)
    kmn.layers.set_quantizers(model, True)
    for batch in (x[:N_SAMPLES], x[N_SAMPLES : 2 * N_SAMPLES]):
        model(batch, training=True)
    result = {"steps": sorted({*steps}), "announced": len(preparation.floating)}
    path = Path(folder) / "model.tflite"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # differences are what this is about
        try:
            report = kmn.export_tflite(model, path)
        except ValueError as error:
            return result | {"rejected": str(error)[:300]}
    file = TFLiteModel(path.read_bytes(), "model")
    held_out = x[2 * N_SAMPLES :]
    raw = file.run([held_out])
    predicted = keras.tree.flatten(model.predict(held_out, verbose=0))
    differences = [
        np.abs(r.astype(int) - info.quantize(p))
        for r, info, p in zip(raw, file.outputs, predicted, strict=True)
    ]
    return result | {
        "float": sum(report.float_operations.values()),
        "equal": min(float(np.mean(d == 0)) for d in differences),
        "largest": max(int(d.max()) for d in differences),
    }


def work(seeds):
    """Print a line for each seed, in a process that a file may end."""
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            print(json.dumps({"seed": seed}), flush=True)
            print(json.dumps({"seed": seed, "row": row(seed, folder)}), flush=True)


def run(seeds, save):
    """Fill `save` with the row of each seed; a process that ends is replaced."""
    left = list(seeds)
    while left:
        command = [sys.executable, "-m", "benchmarks.export.random_exports", "--work"]
        started = left[0]
        with subprocess.Popen(
            [*command, *map(str, left)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            for line in process.stdout:
                if not line.startswith("{"):
                    continue
                value = json.loads(line)
                started = value["seed"]
                if "row" in value:
                    save(started, value["row"])
                    left.remove(started)
        if process.returncode and started in left:
            save(started, {"crash": process.returncode})
            left.remove(started)


def summary(rows):
    """Return counts of the outcomes, and of the steps of networks that differ."""
    compared = [one for one in rows.values() if "equal" in one]
    differ = [one for one in compared if one["equal"] < AGREES]
    steps = collections.Counter(step for one in differ for step in one["steps"])
    return {
        "graphs": len(rows),
        "crashes": sum("crash" in one for one in rows.values()),
        "rejected": sum("rejected" in one for one in rows.values()),
        "agree": len(compared) - len(differ),
        "all_equal": sum(one["equal"] == 1 for one in compared),
        "float_not_announced": sum(
            one["float"] > 0 and not one["announced"] for one in compared
        ),
        "steps_of_those_that_differ": dict(steps.most_common()),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--graphs", type=int, default=N_GRAPHS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--work", type=int, nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work)
        return
    rows = {}
    if arguments.out.exists():
        rows = json.loads(arguments.out.read_text())["rows"]

    def save(seed, one):
        rows[str(seed)] = one
        if len(rows) % 10 == 0 or "crash" in one:
            print(summary(rows), flush=True)
        results = {"commit": commit(), "summary": summary(rows), "rows": rows}
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")

    run([seed for seed in range(arguments.graphs) if str(seed) not in rows], save)


if __name__ == "__main__":
    main()
