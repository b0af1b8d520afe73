"""Memory of `EnsemblePruner.prune` on a stream that does not fit into it.

    python -m benchmarks.selection.stream_memory

A `tf.data.Dataset` makes batches of random numbers, 52 kB a sample, 10 GB in all. A
pool of 20 small networks is pruned on it. Each row has the peak resident memory of
three new processes: one imports the package, one also makes an ensemble, which loads
Keras and TensorFlow, and one prunes. Large packages are imported where they are used:
the peak of a process includes that of its parent. A few minutes on two cores.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.lib.sections import machine, run_section

RESULTS = Path(__file__).parent.parent / "results" / "stream_memory.json"
MODULE = "benchmarks.selection.stream_memory"
N_LEARNERS, N_MEMBERS, N_CLASSES = 20, 4, 5
N_FEATURES, BATCH, STRIDE = 13_000, 250, 100
N_SAMPLES = (20_000, 200_000)


def make(settings: dict) -> dict:
    """Write the pool."""
    import keras

    import keras_micronets as kmn

    pool = kmn.LearnerPool(settings["pool"])
    for seed in range(N_LEARNERS):
        keras.utils.set_random_seed(seed)
        inputs = keras.Input((N_FEATURES,))
        hidden = keras.layers.Dense(16, "relu")(inputs[:, ::STRIDE])
        outputs = keras.layers.Dense(N_CLASSES, "softmax")(hidden)
        pool.add(keras.Model(inputs, outputs), task="multiclass")
    return {}


def imported(settings: dict) -> dict:
    """Measure a process that imports the package."""
    import keras_micronets  # noqa: F401

    return {"peak_bytes": peak()}


def loaded(settings: dict) -> dict:
    """Measure a process that loads the backend, too."""
    import keras_micronets as kmn

    kmn.EnsemblePruner()
    return {"peak_bytes": peak()}


def prune(settings: dict) -> dict:
    """Measure a process that prunes the pool."""
    import keras_micronets as kmn

    start = time.perf_counter()
    pruner = kmn.EnsemblePruner(
        kmn.LearnerPool(settings["pool"]), N_MEMBERS, random_state=0
    )
    pruner.prune(stream(settings["n_samples"]), verbose=0)
    seconds = time.perf_counter() - start
    return {"peak_bytes": peak(), "seconds": round(seconds, 1)}


def stream(n_samples: int):
    """Return a dataset whose batches are computed from their numbers."""
    import tensorflow as tf

    def batch(number):
        seed = tf.stack([number, 0])
        x = tf.random.stateless_uniform((BATCH, N_FEATURES), seed, -1.0, 1.0)
        y = tf.argmax(x[:, : N_CLASSES * STRIDE : STRIDE], axis=1)
        return x, y

    return tf.data.Dataset.range(n_samples // BATCH).map(batch)


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def table(results: dict) -> str:
    """Return the table of the results, in Markdown."""
    lines = [
        "| samples | inputs, GB | import, MB | Keras and TensorFlow, MB | prune, MB | "
        "prune - import, MB | prune - Keras and TensorFlow, MB | minutes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        imported, loaded, pruned = (
            row[f"{name}_bytes"] / 1e6 for name in ("imported", "loaded", "peak")
        )
        lines.append(
            f"| {row['samples']:,} | {row['input_bytes'] / 1e9:.1f} | {imported:.0f} | "
            f"{loaded:.0f} | {pruned:.0f} | {pruned - imported:.0f} | "
            f"{pruned - loaded:.0f} | {row['seconds'] / 60:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, nargs="+", default=N_SAMPLES)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    rows = []
    for n_samples in arguments.samples:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "section.json"
            settings = {"pool": f"{folder}/pool", "n_samples": n_samples}
            run_section(MODULE, "make", settings, out)
            peaks = {
                f"{name}_bytes": run_section(MODULE, name, settings, out)["peak_bytes"]
                for name in ("imported", "loaded")
            }
            row = run_section(MODULE, "prune", settings, out)
        row |= {
            "samples": n_samples,
            "input_bytes": n_samples * N_FEATURES * 4,
            **peaks,
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
    results = {"learners": N_LEARNERS, "rows": rows, "machine": machine()}
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


SECTIONS = {"make": make, "imported": imported, "loaded": loaded, "prune": prune}

if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in SECTIONS:
        section, settings, out = sys.argv[1:]
        Path(out).write_text(json.dumps(SECTIONS[section](json.loads(settings))))
    else:
        main()
