"""Time and memory of exporting a pool, with and without worker processes.

    KERAS_BACKEND=jax python -m benchmarks.export.pool

Twenty small networks with learned ranges become int8 files, as `EnsemblePruner.export`
converts its members. "kept" is what the package does: one process loads each file
first, and on JAX and PyTorch another one converts. "none" is TensorFlow without that
process; "one per export" starts the processes again for each network. Memory is the
resident set of this process and of its workers.
"""

import argparse
import time
from pathlib import Path

import keras
import numpy as np

from benchmarks.lib.results import RESULTS_FOLDER, ResultsFile
from keras_micronets import layers
from keras_micronets.export import make_file
from keras_micronets.export.tflite import convert_tflite
from keras_micronets.export.workers import worker

N_NETWORKS, SETTLED = 20, 5
WORKERS = {"tensorflow": ("kept", "none"), "jax": ("kept", "one per export")}
WORKERS["torch"] = WORKERS["jax"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", help="one of the rows; all by default")
    parser.add_argument("--out", type=Path, default=RESULTS_FOLDER / "export_pool.json")
    arguments = parser.parse_args()
    backend = keras.backend.backend()
    file = ResultsFile(arguments.out, {"networks": N_NETWORKS})
    for workers in WORKERS[backend]:
        about = {"backend": backend, "workers": workers}
        if workers == (arguments.workers or workers) and not file.has(about):
            file.add(about | run(workers))
    print(table(file.runs))


def run(workers):
    """Export the networks; return the seconds and the growth of memory."""
    if workers == "none":
        make_file.check_file = lambda content, name: None
    worker._close_all()
    seconds, here, there = [], [], []
    for seed in range(N_NETWORKS):
        model = network(seed)
        start = time.perf_counter()
        convert_tflite(model, f"{seed}.tflite")
        seconds.append(time.perf_counter() - start)
        here.append(resident("self"))
        processes = [x._process.pid for x in worker._workers.values()]
        there.append(sum(map(resident, processes)))
        if workers == "one per export":
            worker._close_all()
    return {
        "first": round(seconds[0], 2),
        "seconds": round(float(np.median(seconds[1:])), 3),
        "mb": round(here[-1]),
        "mb_per_export": round(slope(here), 2),
        "worker_mb": round(there[-1]),
        "worker_mb_per_export": round(slope(there), 2),
    }


def slope(values):
    """Return the growth per export once caches have filled."""
    return float(np.polyfit(range(SETTLED, N_NETWORKS), values[SETTLED:], 1)[0])


def network(seed):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.Conv2D(8, 3, activation="relu"),
            keras.layers.Conv2D(16, 3, strides=2, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    layers.prepare(model, quantize=True)
    layers.set_quantizers(model, True)
    model(np.random.default_rng(seed).normal(size=(64, 16, 16, 3)), training=True)
    return model


def resident(process):
    """Return the megabytes of memory that a process has."""
    pages = Path(f"/proc/{process}/statm").read_text().split()[1]
    return int(pages) * 4096 / 2**20


def table(runs):
    """Return the results as a table for the documentation."""
    lines = [
        "| backend | workers | first export (s) | each further one (s) | MB per export "
        "| workers (MB) | their MB per export |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['backend']} | {r['workers']} | {r['first']:.1f} | {r['seconds']:.2f} | "
        f"{r['mb_per_export']:.1f} | {r['worker_mb']} | "
        f"{r['worker_mb_per_export']:.1f} |"
        for r in runs
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
