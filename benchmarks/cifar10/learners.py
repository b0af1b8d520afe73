"""Learners from one fit on CIFAR-10, compared with strong baselines.

All rows of a network train for the same epochs on the same images, except the deep
ensembles, which are shown for scale, and rows that say otherwise. Settings were tuned
on other training images; the test images were used once, at the end. Rows are written
as they complete; an interrupted run resumes.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import keras
import numpy as np

import keras_micronets as kmn
from benchmarks.cifar10.learners_report import draw, table
from benchmarks.lib import data, nets
from benchmarks.lib.results import DOCS_FOLDER, RESULTS_FOLDER
from keras_micronets import layers, selection
from keras_micronets.callbacks import Cycle, LearnerCycles, masks
from keras_micronets.learning_rates import PRUNE2EDGE_ADAM, Cosine
from keras_micronets.schedules import PolynomialDecay

RESULTS = RESULTS_FOLDER / "learners.json"
PICTURE = DOCS_FOLDER / "cifar_learners.png"
N_MEMBERS = 4
ALL = layers.Scope(first=True, last=True, small=True)


@dataclass(frozen=True)
class Preset:
    """The size of an experiment.

    Attributes:
        train_size: Images to train on, `None` for all.
        size: Side of the images.
        epochs: Epochs of each row.
        batch_size: Images a batch.
        peak: Learning rate that a cosine of Adam begins at.
        wide_ensemble: Whether the wide net is held against a deep ensemble of its
            own, too.
    """

    train_size: int | None
    size: int
    epochs: int
    batch_size: int
    peak: float
    wide_ensemble: bool


PRESETS = {
    "cpu": Preset(2500, 16, 40, 32, 3e-3, False),
    "full": Preset(None, 32, 200, 128, 3e-3, True),
    "smoke": Preset(200, 16, 10, 32, 3e-3, True),
}


class Experiment:
    """One net, one seed: its data, and how its models are made and trained.

    Args:
        path: The `.npz`, or `None`.
        preset: A `Preset`.
        net: Name of a net.
        seed: Integer.
        label_noise: Share of the training labels that are wrong.
        folder: Where models and pools lie until the seed is done.
    """

    def __init__(self, path, preset, net, seed, label_noise, folder):
        self.preset, self.net, self.seed, self.folder = preset, net, seed, folder
        size = preset.train_size
        self.train, self.held_out, self.test = data.load(
            path,
            train_size=None if size is None else 2 * size,
            choose_size=5000 if size is None else size,
            seed=seed,
            size=preset.size,
            label_noise=label_noise,
        )
        keras.utils.set_random_seed(seed)
        self.dense_macs = sum(macs(self.new(1)).values())

    def new(self, width=1.0, seed=None):
        """Return a fresh model, the same for the same seed."""
        keras.utils.set_random_seed(self.seed if seed is None else seed)
        shape = self.train[0].shape[1:]
        return nets.NETS[self.net](shape, width=width)

    def fit(self, model, epochs, callbacks, seed):
        """Train a model, and return its cost."""
        model.compile(
            keras.optimizers.Adam(self.preset.peak),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        batches = data.Augmented(
            *self.train, batch_size=self.preset.batch_size, seed=seed
        )
        cost = Cost(self.dense_macs)
        model.fit(batches, epochs=epochs, verbose=0, callbacks=[*callbacks, cost])
        return cost

    def single(self, pool, model, epochs, seed, *, peak=None, **options):
        """Train one learner along one cosine."""
        cycle = Cycle(learning_rate=Cosine(peak or self.preset.peak))
        cycles = LearnerCycles(pool, 1, cycle, **options)
        return self.fit(model, epochs, [cycles], seed)

    @cached_property
    def parent(self):
        """The dense parent that several rows share: its weights and its cost."""
        model = self.new()
        pool = kmn.LearnerPool(self.folder / "parent")
        cost = self.single(pool, model, self.preset.epochs // 2, self.seed)
        return model.get_weights(), cost

    def from_parent(self):
        """Return the shared parent, and what it cost."""
        weights, cost = self.parent
        model = self.new()
        model.set_weights(weights)
        return model, cost


class Cost(keras.callbacks.Callback):
    """What training costs: seconds, and epochs of the dense net of width 1.

    A sparse kernel counts by the weights that it keeps, a wide net by its
    multiply-accumulates.
    """

    def __init__(self, unit):
        super().__init__()
        self.unit = unit
        self.dense_epochs, self.seconds = 0.0, 0.0

    def on_train_begin(self, logs=None):
        self._start = time.perf_counter()
        self._macs = macs(self.model)

    def on_epoch_end(self, epoch, logs=None):
        kept = {k.layer.name: 1 - k.sparsity for k in layers.kernels(self.model)}
        done = sum(n * kept.get(name, 1.0) for name, n in self._macs.items())
        self.dense_epochs += done / self.unit

    def on_train_end(self, logs=None):
        self.seconds += time.perf_counter() - self._start

    def __add__(self, other):
        both = Cost(self.unit)
        both.dense_epochs = self.dense_epochs + other.dense_epochs
        both.seconds = self.seconds + other.seconds
        return both


def macs(model):
    """Return the multiply-accumulates of each layer that has a kernel."""
    return {
        layer.name: int(np.prod(layer.kernel.shape) * np.prod(layer.output.shape[1:-1]))
        for layer in model.layers
        if hasattr(layer, "kernel")
    }


def baseline(run, pool):
    return run.single(pool, run.new(), run.preset.epochs, run.seed)


def parent_trained_on(run, pool):
    model, before = run.from_parent()
    return before + run.single(pool, model, run.preset.epochs // 2, run.seed + 50)


def wide_baseline(run, pool, width=2.0):
    return run.single(pool, run.new(width), run.preset.epochs, run.seed)


def one_wide_sparse(run, pool, sparsity, width=2.0):
    """One learner of the wide, sparse net: is the ensemble needed?"""
    pruning = kmn.callbacks.WeightPruning(
        PolynomialDecay(0.0, sparsity, end=0.48), scope=ALL, allocation="global"
    )
    return run.single(
        pool, run.new(width), run.preset.epochs, run.seed, callbacks=[pruning]
    )


def deep_ensemble(run, pool, width=1.0):
    cost = Cost(run.dense_macs)
    for i in range(N_MEMBERS):
        seed = run.seed if i == 0 else 1000 * (run.seed + 1) + i
        cost += run.single(pool, run.new(width, seed), run.preset.epochs, seed)
    return cost


def wide_deep_ensemble(run, pool):
    return deep_ensemble(run, pool, 2.0)


def prune2edge(run, pool):
    """Published settings: a small steady learning rate from a trained parent."""
    model, before = run.from_parent()
    cycles = LearnerCycles.prune2edge(
        pool, N_MEMBERS, learning_rate=PRUNE2EDGE_ADAM, seed=run.seed
    )
    return before + run.fit(model, run.preset.epochs // 2, [cycles], run.seed + 60)


def snapshot(run, pool):
    cycles = LearnerCycles.snapshot(pool, N_MEMBERS, learning_rate=run.preset.peak)
    return run.fit(run.new(), run.preset.epochs, [cycles], run.seed)


def free_tickets(run, pool):
    cycles = LearnerCycles.free_tickets(
        pool,
        N_MEMBERS,
        data=run.train,
        learning_rate=run.preset.peak,
        frequency=100,
        seed=run.seed,
    )
    return run.fit(run.new(), run.preset.epochs, [cycles], run.seed)


def prune_and_tune(run, pool):
    model, before = run.from_parent()
    cycles = LearnerCycles.prune_and_tune(
        pool, N_MEMBERS, learning_rate=run.preset.peak, warmup=0.0, seed=run.seed
    )
    return before + run.fit(model, run.preset.epochs // 2, [cycles], run.seed + 70)


def ours(run, pool, longer=1.0):
    """Snapshots at a moderate learning rate, after one long fall."""
    cycles = _ours(pool, run, peak=run.preset.peak / 2, warmup=0.5)
    return run.fit(run.new(), round(longer * run.preset.epochs), [cycles], run.seed)


def ours_wide(run, pool, longer=1.0):
    """Likewise for a net twice as wide; its control is the wide baseline."""
    cycles = _ours(pool, run, peak=run.preset.peak / 3, warmup=0.6)
    epochs = round(longer * run.preset.epochs)
    return run.fit(run.new(2.0), epochs, [cycles], run.seed)


def ours_wide_sparse(run, pool, sparsity, width=2.0):
    """A wide parent that becomes sparse, then snapshots that move connections.

    The sparsities are such that four int8 members, after gzip, weigh less than the
    baseline in float32; but for 80 %, which shows what that costs.
    """
    warmup = 0.6
    pruning = kmn.callbacks.WeightPruning(
        PolynomialDecay(0.0, sparsity, end=0.8 * warmup),
        scope=ALL,
        allocation="global",
    )
    cycles = _ours(
        pool,
        run,
        peak=run.preset.peak / 3,
        warmup=warmup,
        mask=masks.Regrow(0.2, on_first_cycle=True, scope=ALL),
        callbacks=[pruning],
    )
    return run.fit(run.new(width), run.preset.epochs, [cycles], run.seed)


def _ours(pool, run, *, peak, warmup, mask=None, **options):
    return LearnerCycles(
        pool,
        N_MEMBERS,
        Cycle(mask=mask, learning_rate=Cosine(peak)),
        warmup=warmup,
        warmup_learning_rate=Cosine(run.preset.peak),
        seed=run.seed,
        **options,
    )


ROWS: dict[str, Callable] = {
    "baseline": baseline,
    "parent trained on": parent_trained_on,
    "Prune2Edge": prune2edge,
    "snapshot": snapshot,
    "FreeTickets (EDST)": free_tickets,
    "Prune and Tune": prune_and_tune,
    "ours": ours,
    "ours, 1.5 times the epochs": partial(ours, longer=1.5),
    "ours, wide": ours_wide,
    "ours, wide, 80 % sparse": partial(ours_wide_sparse, sparsity=0.8),
    "ours, wide, 88 % sparse": partial(ours_wide_sparse, sparsity=0.88),
    "ours, 3 x wide, 96 % sparse": partial(ours_wide_sparse, sparsity=0.96, width=3),
    "ours, wide, 1.5 times the epochs": partial(ours_wide, longer=1.5),
    "one wide, 80 % sparse": partial(one_wide_sparse, sparsity=0.8),
    "one 3 x wide, 96 % sparse": partial(one_wide_sparse, sparsity=0.96, width=3),
    "wide baseline": wide_baseline,
    "deep ensemble": deep_ensemble,
    "wide deep ensemble": wide_deep_ensemble,
}

OF_WIDE_ENSEMBLE = ("ours, wide, 1.5 times the epochs", "wide deep ensemble")


def score(run, pool, cost, split):
    """Score the mean of a pool's learners, as they are and as int8 files."""
    x, y = {"test": run.test, "held-out": run.held_out}[split]
    learners = pool.predict(x, verbose=0)
    result = {
        **scores(learners.mean(axis=0), y),
        "members": [float(selection.accuracy(p, y)) for p in learners],
        "disagreement": mean_disagreement(learners),
        "sparsity": float(np.mean([learner.sparsity for learner in pool])),
        "epochs": int(max(learner.epoch for learner in pool)),
        "dense_epochs": round(cost.dense_epochs, 2),
        "seconds": round(cost.seconds, 1),
        "int8": None,
        "gzip_bytes": sum(learner.gzip_bytes for learner in pool),  # an estimate
    }
    if keras.backend.backend() == "tensorflow":  # the converter's
        int8 = pool.quantize(run.train[0][:500], verbose=0)
        result["int8"] = scores(int8.predict(x, verbose=0).mean(axis=0), y)
        result["gzip_bytes"] = sum(learner.gzip_bytes for learner in int8)
        result["float32_bytes"] = float32_bytes(pool[0].load())
    return result


def scores(probabilities, y):
    return {
        "accuracy": float(selection.accuracy(probabilities, y)),
        "nll": float(selection.negative_log_likelihood(probabilities, y)),
        "ece": float(selection.expected_calibration_error(probabilities, y)),
    }


def mean_disagreement(learners):
    matrix = selection.disagreement(learners)
    n = len(matrix)
    return float(matrix.sum() / (n * (n - 1))) if n > 1 else 0.0


def float32_bytes(model):
    """Return the bytes of a model's float32 `.tflite` file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        kmn.export_tflite(model, path, quantization=None)
        return path.stat().st_size


def main():
    arguments = parse()
    results = read(arguments.out)
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as folder:
            run_seed(arguments, seed, Path(folder), results)
    print(table(results))
    draw(results, arguments.picture)


def run_seed(arguments, seed, folder, results):
    """Train and score what the results do not have yet."""
    setting = {
        "preset": arguments.preset,
        "net": arguments.model,
        "label_noise": arguments.label_noise,
        "split": arguments.split,
        "seed": seed,
    }
    done = [row["row"] for row in results["rows"] if setting.items() <= row.items()]
    preset, rows = PRESETS[arguments.preset], arguments.rows
    if rows is None:
        without = () if preset.wide_ensemble else OF_WIDE_ENSEMBLE
        rows = [name for name in ROWS if name not in without]
    wanted = [name for name in rows if name not in done]
    if not wanted:
        return
    run = Experiment(
        arguments.data, preset, arguments.model, seed, arguments.label_noise, folder
    )
    for index, name in enumerate(wanted):
        pool = kmn.LearnerPool(folder / f"pool-{index}")
        cost = ROWS[name](run, pool)
        row = {**setting, "row": name, **score(run, pool, cost, arguments.split)}
        results["rows"].append(row)
        write(arguments.out, results)
        print(
            f"seed {seed}  {name:<33}{row['accuracy']:.2%}  NLL {row['nll']:.3f}  "
            f"disagreement {row['disagreement']:.3f}  {row['seconds']:.0f} s",
            flush=True,
        )


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="an .npz; without it Keras downloads CIFAR-10")
    parser.add_argument("--preset", default="cpu", choices=PRESETS)
    parser.add_argument("--model", default="resnet8", choices=nets.NETS)
    parser.add_argument("--label-noise", type=float, default=0.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=ROWS)
    parser.add_argument("--split", default="test", choices=("test", "held-out"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    return parser.parse_args()


def read(path):
    return json.loads(path.read_text()) if path.exists() else {"rows": []}


def write(path, results):
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(results, indent=1))
    partial.replace(path)


if __name__ == "__main__":
    main()
