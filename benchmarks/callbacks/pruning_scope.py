"""The default of `WeightPruning` against pruning all kernels, on four small nets.

    python -m benchmarks.callbacks.pruning_scope --cifar10 cifar10.npz
        --fsdd fsdd.npz

All rows train for 15 epochs (Adam, 3e-3 along a cosine, batches of 32). `all kernels`
is the default of version 0.1.0: every kernel, without a floor, the final sparsity at
three quarters of the run. `default` is `WeightPruning(PolynomialDecay(0.0, sparsity))`.
The rows between them change one choice at a time; `--rows` selects them.
`KERAS_BACKEND` chooses the backend; PyTorch is the fastest for such nets on a
processor. Rows are written as they complete; an interrupted run resumes.
"""

import argparse
import itertools
from functools import partial
from pathlib import Path

import keras
import numpy as np

from benchmarks.callbacks.pruning_scope_problems import PROBLEMS
from benchmarks.lib import data
from benchmarks.lib.results import RESULTS_FOLDER, ResultsFile
from keras_micronets.callbacks import WeightPruning
from keras_micronets.callbacks.base import SparsityCallback
from keras_micronets.layers import Scope, kernels, sparsity
from keras_micronets.schedules import PolynomialDecay
from keras_micronets.sparsity import as_allocation, keep_largest

RESULTS = RESULTS_FOLDER / "pruning_scope.json"
PRESET = {"epochs": 15, "batch_size": 32, "peak": 3e-3}
SPARSITIES = (0.8, 0.9, 0.5)
ALLOCATIONS = ("uniform", "global", "erk")
ALL = Scope(first=True, last=True, small=True)


class PlainPruning(SparsityCallback):
    """Prune all kernels by magnitude without a floor, as version 0.1.0 did."""

    scope, importance, data, frequency, seed = ALL, None, None, None, 0

    def __init__(self, schedule, allocation):
        super().__init__()
        self.schedule, self.allocation = schedule, allocation

    def is_due(self, step):
        return step % max(1, self.total_steps // 100) == 0

    def update(self, step, progress):
        chosen = kernels(self.model)
        scores = [
            k.layout.canonical(np.where(k.mask, np.abs(k.weights), -np.inf))
            for k in chosen
        ]
        counts = as_allocation(self.allocation)(scores, self.schedule(progress))
        for kernel, score, count in zip(chosen, scores, counts, strict=True):
            if count > np.count_nonzero(score == -np.inf):
                kernel.set_mask(kernel.layout.restore(keep_largest(score, count)))


def plain(end, share, allocation):
    return PlainPruning(PolynomialDecay(0.0, share, end=end), allocation)


def scoped(scope, share, allocation):
    schedule = PolynomialDecay(0.0, share)
    return WeightPruning(schedule, scope=scope, allocation=allocation)


ROWS = {
    "all kernels": partial(plain, 0.75),
    "all kernels, half the run": partial(plain, 0.5),
    "all kernels, floors": partial(scoped, ALL),
    "without small": partial(scoped, Scope(first=True, last=True)),
    "without small and last": partial(scoped, Scope(first=True)),
    "default": partial(scoped, None),
}


def train(problem, path, seed, callbacks):
    """Train a net and score it on the test set."""
    (x, y), test = problem.load(path, seed)
    keras.utils.set_random_seed(seed)
    model, size = problem.net(), PRESET["batch_size"]
    steps = PRESET["epochs"] * -(-len(x) // size)
    rate = keras.optimizers.schedules.CosineDecay(PRESET["peak"], steps)
    model.compile(
        keras.optimizers.Adam(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    if problem.augmented:
        x, y = data.Augmented(x, y, batch_size=size, seed=seed), None
    options = {"epochs": PRESET["epochs"], "batch_size": size, "verbose": 0}
    model.fit(x, y, callbacks=callbacks, **options)
    scores = model.evaluate(*test, batch_size=500, verbose=0, return_dict=True)
    return {
        "accuracy": round(scores["accuracy"], 4),
        "nll": round(scores["loss"], 4),
        "zeros": round(sparsity(model), 4),
        "least_density": round(
            1 - max((k.sparsity for k in kernels(model)), default=0), 4
        ),
    }


def main():
    arguments = parse()
    file = ResultsFile(arguments.out, PRESET)
    cells = itertools.product(
        arguments.seeds,
        SPARSITIES,
        ALLOCATIONS,
        arguments.nets,
        ["dense", *arguments.rows],
    )
    for seed, share, allocation, net, row in cells:
        about = {"net": net, "seed": seed, "row": row}
        if row != "dense":
            about |= {"sparsity": share, "allocation": allocation}
        if not file.has(about):
            problem = PROBLEMS[net]
            path = problem.path and getattr(arguments, problem.path)
            callbacks = [] if row == "dense" else [ROWS[row](share, allocation)]
            file.add({**about, **train(problem, path, seed, callbacks)})
    print(table(file.results))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cifar10", type=Path, help="an .npz of CIFAR-10")
    parser.add_argument("--fsdd", type=Path, help="an .npz of spoken digits")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--nets", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument(
        "--rows", nargs="+", choices=ROWS, default=["all kernels", "default"]
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def table(results):
    """Return the cells that both rows have as a table for the documentation."""
    lines = [
        "| net | sparsity | allocation | seeds | dense | all kernels | default "
        "| default minus all | zeros: all | default |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    runs, gains = results["runs"], []
    shares, nets = sorted(SPARSITIES), dict.fromkeys(run["net"] for run in runs)
    for net, share, allocation in itertools.product(nets, shares, ALLOCATIONS):
        cell = {"net": net, "sparsity": share, "allocation": allocation}
        before, after = (
            {
                run["seed"]: run
                for run in runs
                if (cell | {"row": row}).items() <= run.items()
            }
            for row in ("all kernels", "default")
        )
        seeds = sorted(before.keys() & after.keys())
        if seeds:
            dense = [r for r in runs if r["net"] == net and r["row"] == "dense"]
            dense = [run["accuracy"] for run in dense if run["seed"] in seeds]
            gain = [after[s]["accuracy"] - before[s]["accuracy"] for s in seeds]
            gains.append(np.mean(gain))
            values = [
                net,
                f"{share:.0%}",
                allocation,
                str(len(seeds)),
                f"{np.mean(dense):.1%}",
                *(_mean(x, seeds, "accuracy") for x in (before, after)),
                _with_error(gain),
                *(_mean(x, seeds, "zeros") for x in (before, after)),
            ]
            lines.append(f"| {' | '.join(values)} |")
    if gains:
        mean = f"{100 * np.mean(gains):+.1f}"
        lines.append(f"| mean of the cells | | | | | | | {mean} | | |")
    return "\n".join(lines)


def _mean(by_seed, seeds, key):
    return f"{np.mean([by_seed[seed][key] for seed in seeds]):.1%}"


def _with_error(gain):
    """Return the mean of differences in points, with its standard error."""
    points = 100 * np.array(gain)
    error = (
        f" ± {points.std(ddof=1) / len(points) ** 0.5:.1f}" if len(points) > 1 else ""
    )
    return f"{points.mean():+.1f}{error}"


if __name__ == "__main__":
    main()
