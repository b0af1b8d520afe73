"""The full pipeline on CIFAR-10, with baselines, in both orders.

    python -m benchmarks.cifar10.pipeline --data cifar10.npz

For each network and seed a parent is trained; learners come from one further run of
the parent, pruned and quantisation-aware or not; four of them are kept. The baselines
are in the same table: the parent trained longer at the same cost, the four most
accurate learners, and four random ones (mean of 20 samples). Selections use a fifth
of the training images, scores all test images. Rows are written as each run ends;
completed runs are not repeated.
"""

import argparse
import json
import math
import os
import shutil
import tempfile
import time
from pathlib import Path

from benchmarks.lib.results import RESULTS_FOLDER, row_label

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_micronets as kmn
from benchmarks.lib import data, nets
from keras_micronets import selection
from keras_micronets.edge.member import Member
from keras_micronets.edge.tasks import softmax
from keras_micronets.export.flatbuffer import gzip_size

BATCH_SIZE = 64
PARENT_RATE, LEARNER_RATE = 2e-3, 1e-3
N_MEMBERS = 4
RESULTS = RESULTS_FOLDER / "pipeline.json"


def main():
    arguments = parse()
    results = read(arguments.out)
    for seed in range(arguments.seeds):
        for name in arguments.nets:
            key = {
                "net": name,
                "seed": seed,
                "train_size": arguments.train_size,
                "epochs": arguments.epochs,
                "learner_epochs": arguments.learner_epochs,
                "sparsity": arguments.sparsity,
                "int8": arguments.int8,
            }
            if any(key == run["key"] for run in results["runs"]):
                continue
            print(f"\n{key}", flush=True)
            results["runs"].append({"key": key, **run(arguments.data, key)})
            write(arguments.out, results)
            print(table(results), flush=True)
    print(table(results))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="an .npz; without it Keras downloads CIFAR-10")
    parser.add_argument("--train-size", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=20, help="of the parent")
    parser.add_argument("--learner-epochs", type=int, default=24)
    parser.add_argument("--sparsity", type=float, default=0.7, help="the last one")
    parser.add_argument(
        "--int8",
        choices=("while training", "after training"),
        default="while training",
        help="quantisation-aware learners, or float ones quantised afterwards",
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--nets", nargs="+", default=["resnet8", "cifar10cnn"], choices=nets.NETS
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def run(path, key):
    """Train, choose and score for one net and seed; return rows and times."""
    train, choose, test = data.load(
        path, train_size=key["train_size"], seed=key["seed"]
    )
    keras.utils.set_random_seed(key["seed"])
    parent = nets.NETS[key["net"]](train[0].shape[1:])
    seconds = {}
    seconds["parent"] = fit(parent, train, key["epochs"], PARENT_RATE, key["seed"])
    rows = [row("parent, float32", *float_file(parent), test)]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        parent.save(folder / "parent.keras")

        longer = keras.saving.load_model(folder / "parent.keras", compile=False)
        keras.utils.set_random_seed(key["seed"] + 100)
        seconds["parent trained on"] = fit(
            longer, train, key["learner_epochs"], LEARNER_RATE, key["seed"] + 100
        )
        rows.append(row("parent trained on, float32", *float_file(longer), test))
        rows.append(
            row("parent trained on, int8", *int8_file(longer, train, folder), test)
        )

        model = keras.saving.load_model(folder / "parent.keras", compile=False)
        keras.utils.set_random_seed(key["seed"] + 200)
        pool = kmn.LearnerPool(folder / "pool")
        seconds["learners"] = fit_learners(model, pool, train, key)
        seconds["learners' predictions"] = clock(lambda: pool.predict(choose[0]))
        int8 = None

        def quantize():
            nonlocal int8
            int8 = pool.quantize(train[0][:500])

        seconds["learners to int8"] = clock(quantize)
        rows += score_orders(pool, int8, choose, test, key["seed"])
    return {"seconds": seconds, "n_learners": len(rows[-1]["names"]), "rows": rows}


def score_orders(pool, int8, choose, test, seed):
    """Cluster then quantise, quantise then cluster, and the controls."""
    labels = choose[1]
    before, after = pool.predict(choose[0]), int8.predict(choose[0])
    answers = int8.predict(test[0])  # predictions of the device, in both orders
    files = [learner.path.read_bytes() for learner in int8]

    def ensemble(name, indices, **extra):
        probabilities = answers[indices].mean(axis=0)
        contents = [files[i] for i in indices]
        return row(
            name,
            probabilities,
            contents,
            test,
            indices=[int(i) for i in indices],
            disagreement=mean_disagreement(answers[indices]),
            **extra,
        )

    rows = []
    for strategy, label in (
        ("accuracy", "one a cluster"),
        ("best_cluster", "best cluster"),
    ):
        for order, probabilities in (
            ("cluster, then int8", before),
            ("int8, then cluster", after),
        ):
            chosen = selection.cluster(
                probabilities,
                labels,
                N_MEMBERS,
                representative=strategy,
                random_state=seed,
            )
            rows.append(ensemble(f"{label}: {order}", chosen.indices))
    top = selection.top_k(after, labels, N_MEMBERS)
    rows.append(ensemble("top 4 by accuracy, int8", top.indices))
    draws = [
        ensemble(
            "", selection.random_k(after, labels, N_MEMBERS, random_state=i).indices
        )
        for i in range(20)
    ]
    rows.append(mean_row("4 at random, int8 (mean of 20)", draws))
    singles = [row("", answers[i], [files[i]], test) for i in range(len(files))]
    rows.append(mean_row("one learner, int8 (mean)", singles))
    rows.append(
        ensemble(
            "all learners, int8",
            np.arange(len(files)),
            names=[learner.name for learner in pool],
            sparsities=[float(learner.sparsity) for learner in pool],
            members=[single["accuracy"] for single in singles],
        )
    )
    return rows


def fit(model, train, epochs, rate, seed):
    compile_model(model, rate)
    return clock(lambda: fit_augmented(model, train, epochs, rate, seed, epochs, []))


def fit_learners(model, pool, train, key):
    """Draw twelve learners from one run that begins at the parent."""
    epochs, seed = key["learner_epochs"], key["seed"] + 200
    cycle = epochs // 12
    compile_model(model, LEARNER_RATE)
    schedule = kmn.schedules.PolynomialDecay(0.3, key["sparsity"], end=0.8, power=1)
    every_kernel = kmn.layers.Scope(first=True, last=True, small=True)
    callbacks = [
        kmn.callbacks.WeightPruning(schedule, scope=every_kernel),
        kmn.callbacks.LearnerCheckpoint(pool, every=cycle, seed=seed),
    ]
    if key["int8"] == "while training":
        callbacks.insert(1, kmn.callbacks.QuantizationAwareTraining())
    return clock(
        lambda: fit_augmented(
            model, train, epochs, LEARNER_RATE, seed, cycle, callbacks
        )
    )


def fit_augmented(model, train, epochs, rate, seed, cycle, callbacks):
    """Fit with a learning rate that falls along a cosine within each cycle."""

    def learning_rate(epoch):
        done = (epoch % cycle) / max(1, cycle - 1)
        return rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))

    batches = data.Augmented(*train, batch_size=BATCH_SIZE, seed=seed)
    falls = keras.callbacks.LearningRateScheduler(learning_rate)
    model.fit(batches, epochs=epochs, verbose=2, callbacks=[falls, *callbacks])


def compile_model(model, rate):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])


def float_file(model):
    """Return a function of the inputs and the bytes of the float32 file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        kmn.export_tflite(model, path, quantization=None)
        content = path.read_bytes()
    return lambda x: softmax(model.predict(x, verbose=0)), [content]


def int8_file(model, train, folder):
    path = folder / "model.tflite"
    kmn.export_tflite(model, path, representative_data=train[0][:500])
    return Member(path, from_logits=True).predict, [path.read_bytes()]


def row(name, probabilities, contents, test, **extra):
    """Score predictions on the test images, and weigh the files."""
    x, y = test
    if callable(probabilities):
        probabilities = probabilities(x)
    return {
        "name": name,
        "accuracy": float(selection.accuracy(probabilities, y)),
        "nll": float(selection.negative_log_likelihood(probabilities, y)),
        "ece": float(selection.expected_calibration_error(probabilities, y)),
        "bytes": sum(map(len, contents)),
        "gzip_bytes": sum(map(gzip_size, contents)),
        **extra,
    }


def mean_row(name, rows):
    """Average the numbers of several rows."""
    keys = [k for k, v in rows[0].items() if isinstance(v, int | float)]
    return {"name": name} | {k: float(np.mean([r[k] for r in rows])) for k in keys}


def mean_disagreement(probabilities):
    matrix = selection.disagreement(probabilities)
    n = len(matrix)
    return float(matrix.sum() / (n * (n - 1))) if n > 1 else 0.0


def table(results):
    """Return means and standard deviations over the seeds, a block a net."""
    lines = []
    kinds = [(run["key"]["net"], run["key"]["int8"]) for run in results["runs"]]
    for kind in dict.fromkeys(kinds):
        runs = [run for run, k in zip(results["runs"], kinds, strict=True) if k == kind]
        lines.append(
            f"\n{kind[0]}, int8 {kind[1]}, {len(runs)} seeds "
            "(mean ± standard deviation)"
        )
        lines.append(
            f"{'':<36}{'accuracy':>15}{'NLL':>8}{'ECE':>8}{'disagree':>10}{'gzip':>11}"
        )
        for i, first in enumerate(runs[0]["rows"]):
            rows = [run["rows"][i] for run in runs]
            lines.append(_line(first["name"], rows))
    return "\n".join(lines)


def _line(name, rows):
    def mean(key):
        return np.mean([r.get(key, np.nan) for r in rows])

    spread = np.std([r["accuracy"] for r in rows], ddof=1) if len(rows) > 1 else 0.0
    accuracy = f"{mean('accuracy'):.2%} ± {spread:.2%}"
    differ = mean("disagreement")
    shown = "" if np.isnan(differ) else f"{differ:.3f}"
    return (
        f"{row_label(name):<36}{accuracy:>15}{mean('nll'):>8.3f}{mean('ece'):>8.3f}"
        f"{shown:>10}{mean('gzip_bytes'):>11,.0f}"
    )


def read(path):
    return json.loads(path.read_text()) if path.exists() else {"runs": []}


def write(path, results):
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(results, indent=1))
    shutil.move(partial, path)


def clock(work):
    """Return the seconds that a piece of work takes."""
    start = time.perf_counter()
    work()
    return round(time.perf_counter() - start, 1)


if __name__ == "__main__":
    main()
