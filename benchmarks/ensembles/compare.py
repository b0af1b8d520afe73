"""Ensembles and distillation against regularised controls, at stated training costs.

    python -m benchmarks.ensembles.compare --task images --cifar10 cifar10.npz
    python -m benchmarks.ensembles.compare --task "noisy images" --cifar10 cifar10.npz
    python -m benchmarks.ensembles.compare --task "spoken digits" --fsdd fsdd.npz
    python -m benchmarks.ensembles.compare --task vibration
    python -m benchmarks.ensembles.compare --task "all images" --cifar10 cifar10.npz

`cifar10.npz` has x_train, y_train, x_test and y_test of CIFAR-10. `fsdd.npz` has, under
the same names, log-mel spectrograms of the Free Spoken Digit Dataset (Z. Jackson and
contributors, CC BY-SA 4.0) of shape (clips, 61, 32, 1), and the digits.

Every row has its training cost, see `training.Run`. Settings are chosen on held-out
data of other seeds, with `--tune --seeds 100 101` before the rows; those of all images
are fixed beforehand. Rows are written as they complete, trained members are kept in
`--folder`, and an interrupted run resumes at its last epoch.
"""

import argparse
import time
from collections import defaultdict
from pathlib import Path

import keras
import numpy as np

from benchmarks.ensembles.report import draw, table
from benchmarks.ensembles.rows import ROWS
from benchmarks.ensembles.scoring import mean_probabilities, score
from benchmarks.ensembles.tasks import TASKS
from benchmarks.ensembles.training import Run
from benchmarks.lib.results import RESULTS_FOLDER, ResultsFile, commit
from keras_micronets import selection

__all__ = ["RESULTS", "main", "table"]

RESULTS = RESULTS_FOLDER / "ensembles.json"
FOLDER = Path.home() / ".cache" / "keras_micronets" / "ensembles"
#: Weight decays that are tried for a row. Ensembles of members of about the whole width
#: take that of the last, all other rows that of the first.
TUNED = {
    "regularised": (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
    "2 side by side": (0.0, 0.1, 0.3, 1.0),
    "deep ensemble of 2": (0.0, 0.1, 0.3, 1.0),
}


def main():
    arguments = parse()
    task = TASKS[arguments.task]
    path = getattr(arguments, task.data) if task.data else None
    file = ResultsFile(arguments.out, {})
    for seed in arguments.seeds:
        about = {"task": arguments.task, "seed": seed, "commit": commit()}
        about["backend"] = keras.backend.backend()
        folder = arguments.folder / f"{arguments.task} {seed}"
        if arguments.tune:
            for row in TUNED:
                tune(Run(task, path, seed, folder), file, about, row)
        else:
            decays = {
                row: chosen_decay(file.runs, arguments.task, row) for row in TUNED
            }
            run = Run(task, path, seed, folder, decays)
            compare(run, file, about, arguments.rows)
    print(table(file.results))
    if arguments.picture:
        draw(file.results, arguments.picture)


def compare(run, file, about, rows):
    """Train and score the rows that the file lacks."""
    for name in rows:
        key = {"task": about["task"], "seed": about["seed"], "row": name}
        if file.has(key):
            continue
        start, run.row = time.perf_counter(), name
        models, cost = ROWS[name](run)
        seconds = round(time.perf_counter() - start, 1)
        found = score(models, run)
        file.add({**key, "cost": round(cost, 3), **found, "seconds": seconds, **about})


def tune(run, file, about, row):
    """Score weight decays of a row on held-out data."""
    x, y = run.held_out
    for decay in TUNED[row]:
        name = f"tuning of {row}, weight decay {decay}"
        key = {"task": about["task"], "seed": about["seed"], "row": name}
        if file.has(key):
            continue
        models, _ = ROWS[row](run, decay=decay)
        p = mean_probabilities(models, x)
        found = {
            "tuned": row,
            "weight_decay": decay,
            "held_out_accuracy": float(selection.accuracy(p, y)),
            "held_out_nll": float(selection.negative_log_likelihood(p, y)),
        }
        file.add({**key, **found, **about})


def chosen_decay(runs, task, tuned):
    """Return the task's weight decay, or that of the lowest mean held-out loss."""
    if TASKS[task].weight_decay is not None:
        return TASKS[task].weight_decay
    losses = defaultdict(list)
    for run in runs:
        if run["task"] == task and run.get("tuned") == tuned:
            losses[run["weight_decay"]].append(run["held_out_nll"])
    if not losses:
        raise ValueError(f"Expected tuning runs of {task!r}. Run with --tune first.")
    return min(losses, key=lambda decay: np.mean(losses[decay]))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--cifar10", type=Path, help="an .npz of CIFAR-10")
    parser.add_argument("--fsdd", type=Path, help="an .npz of spoken digits")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--tune", action="store_true", help="held-out data only")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--picture", type=Path, help="draw all rows to a .png file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
