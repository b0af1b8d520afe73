"""Time and memory of selection among many learners.

    python -m benchmarks.selection.speed

Predictions are synthetic, in half precision and memory-mapped: 10,000 learners of 20
kinds, 2,000 samples, 10 classes, 20 members. Each time is that of a separate process,
with the data not yet read and the package imported, as is the peak memory, which
includes the pages read from the mapped file. A literal loop over the pairs of 200
learners is interleaved with this package; growth is fitted to pools of 2,500 to
10,000 learners and 1,000 to 4,000 samples. About a quarter of an hour on two cores.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.lib.results import RESULTS_FOLDER
from benchmarks.selection.speed_report import table
from keras_micronets import selection
from keras_micronets.selection.diversity import disagreement_of, kappa_of
from keras_micronets.selection.methods import SINGLE

RESULTS = RESULTS_FOLDER / "selection.json"
N_LEARNERS, N_SAMPLES, N_CLASSES, N_MEMBERS, N_KINDS = 10_000, 2_000, 10, 20, 20

WITH_BARS = ("cluster", "greedy", "disagreement")
MEASURES = {"disagreement": selection.diversity.disagreement}
SLOW = {"backward_elimination": {"start": 1000}}
GROWTH_LEARNERS = (2_500, 5_000, 10_000)
GROWTH_SAMPLES = (1_000, 2_000, 4_000)
#: What an algorithm must cost: exponents of learners and of samples.
MUST = {"cluster": (1, 1), "greedy": (1, 1), "disagreement": (2, 1)}


def make(path: Path, n_learners: int, n_samples: int) -> None:
    """Write predictions and labels."""
    random = np.random.default_rng(0)
    y = random.integers(0, N_CLASSES, n_samples)
    shape = (n_samples, N_CLASSES)
    kinds = random.normal(size=(N_KINDS, *shape)).astype("float32")
    right = 2 * np.eye(N_CLASSES, dtype="float32")[y]
    file = np.lib.format.open_memmap(
        path / "p.npy", "w+", np.float16, (n_learners, *shape)
    )
    for i in range(n_learners):
        logits = 2 * kinds[i % N_KINDS] + right
        logits += random.standard_normal(shape, "float32")
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        file[i] = exponentials / exponentials.sum(axis=1, keepdims=True)
    file.flush()
    np.save(path / "y.npy", y)


def run_one(path: Path, name: str) -> dict:
    """Time one method, in this process."""
    p, y = np.load(path / "p.npy", mmap_mode="r"), np.load(path / "y.npy")
    before = peak()
    start = time.perf_counter()
    if name in MEASURES:
        MEASURES[name](p)
    else:
        SINGLE[name](p, y, N_MEMBERS, random_state=0, **SLOW.get(name, {}))
    seconds = time.perf_counter() - start
    return {"seconds": round(seconds, 2), "peak_gib": peak(), "before_gib": before}


def peak() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def in_own_process(path: Path, name: str) -> dict:
    module = "benchmarks.selection.speed"
    command = [sys.executable, "-m", module, "--one", name, "--folder", str(path)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def repeated(path: Path, name: str, repeats: int) -> dict:
    runs = [in_own_process(path, name) for _ in range(repeats)]
    return {
        "seconds": median(run["seconds"] for run in runs),
        "slowest": max(run["seconds"] for run in runs),
        "peak_gib": max(run["peak_gib"] for run in runs),
        "before_gib": max(run["before_gib"] for run in runs),
        "repeats": repeats,
    }


def growth(folder: Path, repeats: int) -> list[dict]:
    """Time pools of several sizes."""
    rows = []
    sizes = [(n, N_SAMPLES) for n in GROWTH_LEARNERS]
    sizes += [(GROWTH_LEARNERS[0], n) for n in GROWTH_SAMPLES]
    for n_learners, n_samples in dict.fromkeys(sizes):
        path = Path(folder) / f"{n_learners}-{n_samples}"
        path.mkdir(exist_ok=True)
        make(path, n_learners, n_samples)
        for name in WITH_BARS:
            found = repeated(path, name, repeats)
            rows.append(
                {"method": name, "learners": n_learners, "samples": n_samples, **found}
            )
            print(json.dumps(rows[-1]), flush=True)
        (path / "p.npy").unlink()
    return rows


def by_loops(measure: Callable, classes: np.ndarray) -> np.ndarray:
    """Measure all pairs of learners one after the other."""
    matrix = np.zeros((len(classes), len(classes)))
    for i, one in enumerate(classes):
        for j in range(i):
            matrix[i, j] = matrix[j, i] = measure(one, classes[j])
    return matrix


def disagreement_in_python(one, other):
    return sum(a != b for a, b in zip(one, other, strict=True)) / len(one)


def disagreement_in_numpy(one, other):
    return (one != other).mean()


def kappa_in_numpy(one, other):
    agreed = (one == other).mean()
    shares = [np.bincount(x, minlength=N_CLASSES) / len(x) for x in (one, other)]
    chance = shares[0] @ shares[1]
    return (agreed - chance) / (1 - chance)


def loops(repeats: int) -> list[dict]:
    """Time loops over pairs of 200 learners and ours, in turns."""
    random = np.random.default_rng(0)
    kinds = random.integers(0, N_CLASSES, (N_KINDS, N_SAMPLES))
    classes = kinds[np.arange(200) % N_KINDS].astype("uint8")
    changed = random.random(classes.shape) < 0.3
    classes[changed] = random.integers(0, N_CLASSES, changed.sum())
    cases = {
        "disagreement, all in Python": (
            disagreement_of,
            lambda: by_loops(disagreement_in_python, classes.tolist()),
        ),
        "disagreement, a pair in NumPy": (
            disagreement_of,
            lambda: by_loops(disagreement_in_numpy, classes),
        ),
        "kappa, a pair in NumPy": (kappa_of, lambda: by_loops(kappa_in_numpy, classes)),
    }
    return [
        {"measure": name, **compare(partial(ours, classes), theirs, repeats)}
        for name, (ours, theirs) in cases.items()
    ]


def compare(ours: Callable, theirs: Callable, repeats: int) -> dict:
    ratios, fast, slow = [], [], []
    for _ in range(repeats):
        start = time.perf_counter()
        expected = theirs()
        middle = time.perf_counter()
        found = ours()
        end = time.perf_counter()
        slow.append(middle - start)
        fast.append(end - middle)
        ratios.append(slow[-1] / fast[-1])
    off_diagonal = ~np.eye(len(found), dtype=bool)
    difference = np.abs(found - expected)[off_diagonal].max()
    return {
        "loop_seconds": round(median(slow), 4),
        "our_seconds": round(median(fast), 5),
        "ratio": round(median(ratios), 1),
        "largest_difference": float(difference),
        "repeats": repeats,
    }


def main():
    arguments = parse()
    if arguments.one:
        print(json.dumps(run_one(arguments.folder, arguments.one)))
        return
    results = {"loops": loops(5)}
    print(json.dumps(results["loops"]), flush=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder)
        make(path, N_LEARNERS, N_SAMPLES)
        results["methods"] = {}
        for name in [*MEASURES, *SINGLE]:
            found = repeated(path, name, 5 if name in WITH_BARS else 1)
            results["methods"][name] = found
            print(name, json.dumps(found), flush=True)
        (path / "p.npy").unlink()
        results["growth"] = growth(path, 3)
    results["must"] = MUST
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, help="where a gigabyte may be written")
    parser.add_argument("--one", choices=[*MEASURES, *SINGLE], help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
