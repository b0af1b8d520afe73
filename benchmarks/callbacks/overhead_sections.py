"""Sections of `callbacks/overhead.py`; each runs in a separate process."""

import importlib.util
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import keras
import numpy as np
from keras import layers

import keras_micronets as kmn
from benchmarks.lib import nets
from benchmarks.lib.sections import ROOT

BATCH_SIZE = 128
N_LEARNERS, N_MANY, N_IMAGES = 20, 200, 2000
FREQUENCY = 100  # steps between two updates of the masks, as tfmot's default


def main():
    section, settings, out = sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3])
    out.write_text(json.dumps(globals()[f"measure_{section}"](**settings)))


@dataclass(frozen=True)
class Variant:
    """One way to fit a model; `callbacks` returns new callbacks for each turn."""

    name: str
    model: object
    callbacks: Callable[[], list]
    framework: object = keras


def pruning():
    schedule = kmn.schedules.PolynomialDecay(0.3, 0.8, end=0.75)
    every_kernel = kmn.layers.Scope(first=True, last=True, small=True)
    return [
        kmn.callbacks.WeightPruning(schedule, scope=every_kernel, frequency=FREQUENCY)
    ]


def quantization():
    return [kmn.callbacks.QuantizationAwareTraining()]


def both():
    return pruning() + quantization()


PEAKS = {
    "nothing": list,
    "WeightPruning": pruning,
    "QuantizationAwareTraining": quantization,
}


def measure_weights(samples, steps, size):
    return _alternate(_variants(size, ("WeightPruning", pruning)), samples, steps, size)


def measure_qat(samples, steps, size):
    variants = _variants(
        size,
        ("QuantizationAwareTraining", quantization),
        ("WeightPruning, QuantizationAwareTraining", both),
    )
    return _alternate(variants, samples, steps, size)


def measure_large(samples, steps, size):
    variants = [
        Variant("plain", _compiled(large(size)), list),
        Variant(f"WeightPruning, every {FREQUENCY}", _compiled(large(size)), pruning),
    ]
    return _alternate(variants, samples, steps, size)


def measure_jit(samples, steps, size):
    makers = (("WeightPruning", pruning), ("WeightPruning, QAT", both))
    variants = _variants(size, *makers, jit_compile=True)
    return _alternate(variants, samples, steps, size)


def measure_jax(samples, steps, size):
    makers = (("WeightPruning", pruning), ("WeightPruning, QAT", both))
    return _alternate(_variants(size, *makers), samples, steps, size)


measure_jax_small = measure_torch = measure_torch_small = measure_jax


def measure_tfmot(samples, steps, size):
    import tensorflow_model_optimization as tfmot
    import tf_keras

    legacy = nets_of(tf_keras)
    sparsity = tfmot.sparsity.keras
    schedule = sparsity.ConstantSparsity(0.8, 0, frequency=FREQUENCY)
    pruned = sparsity.prune_low_magnitude(legacy.resnet8((size, size, 3)), schedule)
    quantized = tfmot.quantization.keras.quantize_model(legacy.resnet8((size, size, 3)))
    variants = [
        Variant("plain", legacy.resnet8((size, size, 3)), list, tf_keras),
        Variant(
            "prune_low_magnitude",
            pruned,
            lambda: [sparsity.UpdatePruningStep()],
            tf_keras,
        ),
        Variant("quantize_model", quantized, list, tf_keras),
    ]
    for variant in variants:
        _compiled(variant.model, tf_keras)
    return _alternate(variants, samples, steps, size)


def measure_memory(samples, steps, size):
    """Peaks of `fit` in processes of their own, and the bytes of the masks."""
    rows, n_weights = [], large(size).count_params()
    peaks = {name: [] for name in PEAKS}
    for _ in range(3):
        for name, found in peaks.items():
            found.append(_in_process("peak_of_fit", name))
    plain, *others = (float(np.median(found)) for found in peaks.values())
    rows.append((f"peak of plain `fit`, {n_weights:,} weights", _megabytes(plain)))
    for name, peak in zip(list(peaks)[1:], others, strict=True):
        rows.append((f"peak of `fit` with {name}", _megabytes(peak)))
        added = (peak - plain) / n_weights
        rows.append(("the difference, bytes a weight", f"{added:.2f}"))
    masks = {}
    for backend in ("tensorflow", "jax", "torch"):
        masks[backend] = _in_process("bytes_of_masks", backend=backend)
        rows.append((f"masks, bytes a weight, {backend}", f"{masks[backend]:.2f}"))
    return {"peaks": peaks, "masks": masks, "rows": rows}


def measure_pool(samples, steps, size):
    """Predictions of a pool against those of one model, and its peak."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        model, pool = _filled_pool(folder / "pool", N_LEARNERS, size)
        seconds = {f"one model, {N_LEARNERS} times": [], f"{N_LEARNERS} learners": []}
        x = _images(rng, N_IMAGES, size)
        model.predict(x, batch_size=256, verbose=0)
        for _ in range(samples):
            one, many = seconds.values()
            one.append(_seconds(lambda: _predict_repeatedly(model, x)))
            shutil.rmtree(folder / "pool" / "predictions", ignore_errors=True)
            many.append(_seconds(lambda: pool.predict(x, batch_size=256, verbose=0)))
        _filled_pool(folder / "many", N_MANY, size)
        few, many = (
            _in_process("peak_of_predictions", str(folder / name), size)
            for name in ("pool", "many")
        )
    one, all_learners = seconds.values()
    turns = zip(one, all_learners, strict=True)
    throughput = float(np.median([a / b for a, b in turns]))
    rows = [
        (f"throughput of {N_LEARNERS} learners, of one model's", f"{throughput:.1%}"),
        (f"peak, {N_LEARNERS} learners", _megabytes(few)),
        (f"peak, {N_MANY} learners", _megabytes(many)),
    ]
    return {"pool_seconds": seconds, "peaks": [few, many], "rows": rows}


def _alternate(variants, samples, steps, size):
    """Let variants take turns; return the seconds of each, plain first."""
    rng = np.random.default_rng(0)
    n = steps * BATCH_SIZE
    x, y = _images(rng, n, size), rng.integers(0, 10, n)
    starts = [_prepared_weights(variant) for variant in variants]
    for variant in variants:
        _fit(variant, x[: 10 * BATCH_SIZE], y[: 10 * BATCH_SIZE])
    seconds, processor = ({variant.name: [] for variant in variants} for _ in range(2))
    for _ in range(samples):
        for variant, start in zip(variants, starts, strict=True):
            variant.model.set_weights(start)
            clock, used = _fit(variant, x, y)
            seconds[variant.name].append(clock)
            processor[variant.name].append(used)
            print(f"  {variant.name}: {clock:.2f} s, {used:.2f} s of processors")
            sys.stdout.flush()
    return {"seconds": seconds, "processor_seconds": processor}


def _prepared_weights(variant):
    """Return the weights before the first step, masks and quantisers among them."""
    for callback in variant.callbacks():
        getattr(callback, "prepare", callback.set_model)(variant.model)
    return variant.model.get_weights()


def _fit(variant, x, y):
    """Fit a variant, and return the seconds up to the end of its callbacks.

    Behind it, TensorFlow's data sets wait seconds for a thread of theirs, or not at
    all, as chance has it.
    """
    seconds = []
    start = _now()
    end = variant.framework.callbacks.LambdaCallback(
        on_train_end=lambda logs: seconds.extend(_now() - start)
    )
    variant.model.fit(
        x, y, batch_size=BATCH_SIZE, verbose=0, callbacks=[*variant.callbacks(), end]
    )
    return seconds


def _variants(size, *makers, **compile_options):
    return [
        Variant(name, _compiled(nets.resnet8((size, size, 3)), **compile_options), make)
        for name, make in (("plain", list), *makers)
    ]


def _compiled(model, framework=keras, **options):
    loss = framework.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"], **options)
    return model


def large(size):
    """A convolutional net of 25 M parameters, three in four in its last layers."""
    stages = ((64, 2), (128, 2), (256, 2), (512, 1), (1024, 2), (1024, 1))
    model = keras.Sequential([keras.Input((size, size, 3))], name="large")
    for filters, strides in stages:
        model.add(layers.Conv2D(filters, 3, strides, padding="same", activation="relu"))
    model.add(layers.Flatten())
    model.add(layers.Dense(2048, "relu"))
    model.add(layers.Dense(10))
    return model


def nets_of(framework, module=nets):
    """Return `nets`, or another module, with another framework in Keras's place."""
    spec = importlib.util.spec_from_file_location("legacy_nets", module.__file__)
    legacy = importlib.util.module_from_spec(spec)
    with mock.patch.dict(sys.modules, {"keras": framework}):
        spec.loader.exec_module(legacy)
    return legacy


def _filled_pool(path, n_learners, size):
    """Fill a pool with learners that differ; return the model and the pool."""
    pool = kmn.LearnerPool(path)
    model = nets.resnet8((size, size, 3))
    kmn.layers.prepare(model)
    for i in range(n_learners):
        kmn.callbacks.prune(model, 0.3 + 0.5 * i / n_learners)
        pool.add(model, from_logits=True)
    return model, pool


def _predict_repeatedly(model, x):
    for _ in range(N_LEARNERS):
        model.predict(x, batch_size=256, verbose=0)


def peak_of_fit(name):
    rng = np.random.default_rng(0)
    model = _compiled(large(32))
    x, y = _images(rng, 5 * BATCH_SIZE, 32), rng.integers(0, 10, 5 * BATCH_SIZE)
    _fit(Variant(name, model, PEAKS[name]), x, y)
    return _peak()


def bytes_of_masks():
    model = nets.resnet8()
    kmn.layers.prepare(model)
    handles = kmn.layers.kernels(model)
    masks = [getattr(x.layer, f"{x.name}_mask").mask.value for x in handles]
    n_bytes = sum(_bytes(mask) for mask in masks)
    return n_bytes / sum(handle.size for handle in handles)


def _bytes(tensor):
    if keras.backend.backend() == "tensorflow":
        return tensor.dtype.size * int(np.prod(tensor.shape))
    return tensor.nbytes


def peak_of_predictions(path, size):
    pool = kmn.LearnerPool(path)
    x = _images(np.random.default_rng(1), 500, size)
    pool.predict(x, batch_size=256, verbose=0)
    return _peak()


def _in_process(function, *arguments, backend=None):
    """Call a function of this module in a new process; return what it returns."""
    code = (
        "import json, sys, benchmarks.callbacks.overhead_sections as s; "
        "print(json.dumps(getattr(s, sys.argv[1])(*json.loads(sys.argv[2]))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, function, json.dumps(arguments)],
        cwd=ROOT,
        env=os.environ | ({"KERAS_BACKEND": backend} if backend else {}),
        check=True,
        stdout=subprocess.PIPE,
    )
    return json.loads(done.stdout.splitlines()[-1])


def _images(rng, n, size):
    return rng.standard_normal((n, size, size, 3), "float32")


def _peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _megabytes(n_bytes):
    return f"{n_bytes / 1e6:,.0f} MB"


def _seconds(work):
    """Return the seconds of a piece of work on the clock."""
    start = _now()
    work()
    return (_now() - start)[0]


def _now():
    """Return the time on the clock, and what the processors have worked."""
    return np.array([time.perf_counter(), time.process_time()])


if __name__ == "__main__":
    main()
