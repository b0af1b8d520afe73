"""ResNet-8 as int8: compared with float32, post-training quantisation and tfmot.

    python -m benchmarks.cifar10.quantization --data cifar10.npz

A float32 parent is trained. Every row starts from its weights and trains for the same
epochs on the same batches; pruning reaches its sparsity in the first half. LiteRT
runs the files on all test images. Every setting is a default or was fixed before the
first run; nothing was chosen on the test images. Rows are written as they complete;
an interrupted run resumes.
"""

import argparse
import json
import math
import tempfile
import time
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import keras
import numpy as np

import keras_micronets as kmn
from benchmarks.cifar10 import quantization_tfmot
from benchmarks.cifar10.quantization_report import table
from benchmarks.lib import data, nets
from benchmarks.lib.results import RESULTS_FOLDER
from keras_micronets import layers, observers
from keras_micronets.callbacks import QuantizationAwareTraining, WeightPruning
from keras_micronets.edge.member import Member, dequantize, quantize
from keras_micronets.edge.tasks import softmax
from keras_micronets.export.flatbuffer import read_flatbuffer
from keras_micronets.layers import Scope
from keras_micronets.schedules import PolynomialDecay
from keras_micronets.sparsity import Block, NofM, Unstructured

RESULTS = RESULTS_FOLDER / "quantization.json"
N_REPRESENTATIVE = 500


@dataclass(frozen=True)
class Preset:
    """The size of an experiment.

    Attributes:
        train_size: Images to train on.
        parent_epochs: Epochs of the parent.
        epochs: Epochs of each row, after the parent's.
        batch_size: Images a batch.
        parent_peak: Learning rate that the parent's cosine of Adam begins at.
        peak: Learning rate that a row's cosine begins at.
    """

    train_size: int
    parent_epochs: int
    epochs: int
    batch_size: int
    parent_peak: float
    peak: float


PRESETS = {
    "cpu": Preset(10_000, 15, 6, 64, 3e-3, 1e-3),
    "full": Preset(45_000, 100, 40, 128, 3e-3, 1e-3),
    "smoke": Preset(500, 1, 1, 64, 3e-3, 1e-3),
}
SPARSITIES = {
    "dense": None,
    "50 %": (0.5, Unstructured()),
    "80 %": (0.8, Unstructured()),
    "90 %": (0.9, Unstructured()),
    "2:4": (0.5, NofM(2, 4)),
    "80 %, 1 x 16": (0.8, Block(16)),
}
SCHEMES = {
    "percentile": {"observer": observers.Percentile()},
    "learned steps": {"observer": observers.LearnedStepSize()},
    "4-bit kernels": {"kernel_bits": 4},
    "4-bit kernels, learned steps": {
        "kernel_bits": 4,
        "observer": observers.LearnedStepSize(),
    },
}


class Experiment:
    """One seed: its data, its parent, and how rows are trained and scored.

    Args:
        path: The `.npz`, or `None`.
        preset: A `Preset`.
        seed: Integer.
        folder: Where the parent and the files lie.
    """

    def __init__(self, path, preset, seed, folder):
        self.preset, self.seed, self.folder = preset, seed, Path(folder)
        held_out = 500
        self.train, _, self.test = data.load(
            path,
            train_size=preset.train_size + held_out,
            choose_size=held_out,
            seed=seed,
        )

    @cached_property
    def parent(self):
        """The weights that every row starts from."""
        path = self.folder / f"parent_{self.seed}.weights.h5"
        keras.utils.set_random_seed(self.seed)
        model = nets.resnet8()
        if path.exists():
            model.load_weights(path)
        else:
            self.fit(model, self.preset.parent_epochs, self.preset.parent_peak)
            model.save_weights(path)
        return model.get_weights()

    def train_row(self, *callbacks):
        """Return a model that started from the parent and trained a row's epochs."""
        model = nets.resnet8()
        model.set_weights(self.parent)
        keras.utils.set_random_seed(self.seed + 1)
        self.fit(model, self.preset.epochs, self.preset.peak, callbacks)
        return model

    def fit(self, model, epochs, peak, callbacks=(), framework=keras):
        """Train a model of Keras, or of a framework like it, along a cosine."""
        model.compile(
            framework.optimizers.Adam(peak),
            framework.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        rate = framework.callbacks.LearningRateScheduler(
            lambda epoch: peak * (1 + math.cos(math.pi * epoch / epochs)) / 2
        )
        size = self.preset.batch_size
        batches = data.Augmented(*self.train, batch_size=size, seed=self.seed)
        if framework is not keras:
            batches = endless(batches)
        model.fit(
            batches,
            epochs=epochs,
            steps_per_epoch=-(-len(self.train[0]) // size),
            verbose=0,
            callbacks=[*callbacks, rate],
        )

    @property
    def representative(self):
        return self.train[0][:N_REPRESENTATIVE]

    def export(self, model, **options):
        """Return a row about the file of a model."""
        path = self.folder / f"{self.seed}.tflite"
        report = kmn.export_tflite(model, path, **options)
        return {
            **self.score_file(path.read_bytes()),
            "bytes": report.n_bytes,
            "gzip_bytes": report.gzip_bytes,
            "operations": sum(report.operations.values()),
            "float": sum(report.float_operations.values()),
        }

    def score_file(self, content):
        """Score a file on the test images, as LiteRT runs it."""
        file = Member(content)
        outputs = dequantize(file.predict_raw(self.test[0]), *file.output_quantization)
        return self.score(outputs)

    def score(self, logits):
        y = self.test[1]
        likelihood = softmax(logits)[np.arange(len(y)), y]
        return {
            "accuracy": float(np.mean(logits.argmax(-1) == y)),
            "nll": float(-np.log(np.maximum(likelihood, 1e-12)).mean()),
        }


def endless(batches):
    """Yield the batches of all epochs, for frameworks that know no `PyDataset`."""
    while True:
        yield from (batches[i] for i in range(len(batches)))
        batches.on_epoch_end()


def pruning(sparsity):
    """Return the callbacks that prune as one of `SPARSITIES` says."""
    if sparsity is None:
        return []
    share, pattern = sparsity
    schedule = PolynomialDecay(0.0, share, end=0.5)
    every_kernel = Scope(first=True, last=True, small=True)
    return [WeightPruning(schedule, pattern=pattern, scope=every_kernel)]


def in_float(name, experiment):
    """Train in float32; score it, and the files it becomes after training."""
    model = experiment.train_row(*pruning(SPARSITIES[name]))
    rows = {
        "float32": experiment.score(model.predict(experiment.test[0], verbose=0)),
        "int8 after training": experiment.export(
            model, representative_data=experiment.representative
        ),
    }
    if name == "dense":
        rows["float32"] |= experiment.export(model, quantization=None)
        for kind in ("float16", "dynamic"):
            rows[kind] = experiment.export(model, quantization=kind)
        rows["int16"] = experiment.export(
            model, quantization="int16", representative_data=experiment.representative
        )
        rows["4-bit kernels after training"] = calibrated(model, experiment)
    return rows


def calibrated(model, experiment):
    """Score a file of 4-bit kernels and ranges that were measured, not trained."""
    layers.prepare(model, quantize=layers.QuantizationScheme(kernel_bits=4))
    layers.set_quantizers(model, True)
    model.trainable = False  # batch normalisation keeps its statistics
    for batch in np.split(experiment.representative, 10):
        model(batch, training=True)
    return experiment.export(model)


def in_integers(name, experiment):
    """Train with fake quantisers; score the file, and what masks became in it."""
    model = experiment.train_row(
        *pruning(SPARSITIES[name]), QuantizationAwareTraining()
    )
    row = experiment.export(model)
    path = experiment.folder / f"{experiment.seed}.tflite"
    row |= zeros(model, path.read_bytes()) | parity(model, path, experiment.test[0])
    plain = layers.strip(model)
    return {
        "int8": row,
        "its weights, int8 after training": experiment.export(
            plain, representative_data=experiment.representative
        ),
    }


def with_scheme(name, experiment):
    model = experiment.train_row(QuantizationAwareTraining(**SCHEMES[name]))
    return {name: experiment.export(model)}


def with_tfmot(experiment):
    return {"tfmot": quantization_tfmot.row(experiment)}


def zeros(model, content):
    """Compare the zeros of a file with masks, and with what rounding alone gives.

    Batch normalisation multiplies each filter by a number and its scale by the same,
    so the integers of a file are, but for their sign, those of the kernel.
    """
    stored = list(read_flatbuffer(content).int8_weights.values())
    expected = [
        np.moveaxis(np.rint(kernel / step) == 0, -1, 0)
        for kernel, step in map(_kernel_and_step, layers.kernels(model))
    ]
    exact = 0
    for pattern in expected:
        same = (
            i
            for i, weights in enumerate(stored)
            if weights.size == pattern.size
            and np.array_equal(weights.reshape(pattern.shape) == 0, pattern)
        )
        found = next(same, None)
        if found is not None:
            exact += 1
            del stored[found]
    masked = sum(int(np.sum(~kernel.mask)) for kernel in layers.kernels(model))
    return {
        "kernels": len(expected),
        "kernels_as_rounded": exact,
        "n_weights": sum(pattern.size for pattern in expected),
        "n_masked": masked,
        "n_zeros": sum(int(pattern.sum()) for pattern in expected),
    }


def _kernel_and_step(handle):
    """Return a kernel with its zeros, and the real value of one of its integers."""
    kernel = np.where(handle.mask, handle.weights, 0)
    axes = None if kernel.ndim == 2 else tuple(range(kernel.ndim - 1))
    limit = np.abs(kernel).max(axes, keepdims=True)
    return kernel, np.where(limit > 0, limit, 1) / 127


def parity(model, path, x):
    """Compare a file with what Keras predicts, on all of `x`."""
    file = Member(path)
    raw = file.predict_raw(x).astype(int)
    predicted = model.predict(x, verbose=0)
    rounded = quantize(predicted, file.output_dtype, *file.output_quantization)
    return {"equal": float(np.mean(raw == rounded))}


BRANCHES = {
    **{f"float32, {name}": partial(in_float, name) for name in SPARSITIES},
    **{f"int8, {name}": partial(in_integers, name) for name in SPARSITIES},
    **{name: partial(with_scheme, name) for name in SCHEMES},
    "tfmot": with_tfmot,
}


def main():
    arguments = parse()
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    results.setdefault("preset", vars(PRESETS[arguments.preset]))
    runs = results.setdefault("runs", [])
    done = {(run["seed"], run["branch"]) for run in runs}
    with tempfile.TemporaryDirectory() as temporary:
        for seed in arguments.seeds:
            folder = arguments.folder or temporary
            experiment = Experiment(
                arguments.data, PRESETS[arguments.preset], seed, folder
            )
            for branch in arguments.branches:
                if (seed, branch) in done:
                    continue
                start = time.perf_counter()
                run = {"seed": seed, "branch": branch}
                run["rows"] = BRANCHES[branch](experiment)
                run["seconds"] = round(time.perf_counter() - start, 1)
                runs.append(run)
                arguments.out.parent.mkdir(parents=True, exist_ok=True)
                arguments.out.write_text(json.dumps(results, indent=1) + "\n")
                print(json.dumps(run), flush=True)
    print(table(results))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="an .npz of CIFAR-10")
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--branches", nargs="+", choices=BRANCHES, default=BRANCHES)
    parser.add_argument("--folder", type=Path, help="where parents are kept")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
