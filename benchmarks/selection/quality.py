"""Comparison of selection methods on unseen samples.

    python -m benchmarks.selection.quality --data cifar10.npz --folder pools

The samples of each pool (see `selection/pools.py`) are split at random, twenty times,
into a part for selection and a part for scoring: two halves, and 300 against the
rest. Each method keeps 2, 4, 8 and 16 learners; their weighted mean probability is
scored. "all" is the mean of the whole pool, "best one" the most accurate learner.
Rows are written as they complete; an interrupted run resumes.
"""

import argparse
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.lib.results import DOCS_FOLDER, RESULTS_FOLDER, ResultsFile
from benchmarks.selection import pools as selection_pools
from benchmarks.selection.quality_report import draw, table
from keras_micronets import selection
from keras_micronets.selection.methods import SINGLE

RESULTS = RESULTS_FOLDER / "selection_quality.json"
PICTURE = DOCS_FOLDER / "selection_quality.png"
MEMBERS = (2, 4, 8, 16)
N_SPLITS = 20
FEW = 300
#: Splits for which the choice is made once more in each part of nested resampling.
N_NESTED = 5

AUTO = {
    "auto": partial(selection.auto, nested=False),
    "auto by error": partial(selection.auto, nested=False, scoring="error"),
}


def all_of_them(probabilities, y, n_members, *, random_state=None):
    return selection.top_k(probabilities, y, len(probabilities))


def best_one(probabilities, y, n_members, *, random_state=None):
    return selection.top_k(probabilities, y, 1)


def weighted(method):
    """Fit the weights of what a method keeps, a control of greedy's weights."""

    def choose(probabilities, y, n_members, *, random_state=None):
        chosen = method(probabilities, y, n_members, random_state=random_state)
        weights = selection.fit_weights(probabilities[chosen.indices], y)
        return replace(chosen, weights=weights)

    return choose


WEIGHTED = {
    "top_k, weights fitted": weighted(selection.top_k),
    "cluster, weights fitted": weighted(selection.cluster),
}
REFERENCES = {"all": all_of_them, "best one": best_one}
METHODS = SINGLE | WEIGHTED | AUTO


def splits(n_samples, n_chosen_on):
    """Go through parts to choose on, and the rests."""
    for seed in range(N_SPLITS):
        order = np.random.default_rng(seed).permutation(n_samples)
        yield order[:n_chosen_on], order[n_chosen_on:]


def scores(method, pool, chosen_on, scored_on, n_members, seed):
    """Return loss and error of what a method chooses, or `None` for no answer."""
    p, y = pool.probabilities, pool.y
    try:
        chosen = method(p[:, chosen_on], y[chosen_on], n_members, random_state=seed)
    except ValueError:
        return None
    together = chosen.combined(p[:, scored_on])
    right = selection.accuracy(together, y[scored_on])
    loss = selection.negative_log_likelihood(together, y[scored_on])
    return float(loss), 1 - float(right), len(chosen.indices)


def measure(file, about, method, pool, n_members, n_chosen_on):
    """Score one method on all splits, and write the row."""
    start = time.perf_counter()
    found = [
        scores(method, pool, *split, n_members, seed)
        for seed, split in enumerate(splits(len(pool.y), n_chosen_on))
    ]
    seconds = (time.perf_counter() - start) / N_SPLITS
    columns = dict.fromkeys(("losses", "errors", "kept"))
    if None not in found:
        losses, errors, kept = zip(*found, strict=True)
        columns = {
            "losses": np.round(losses, 6).tolist(),
            "errors": np.round(errors, 6).tolist(),
            "kept": kept,
        }
    file.add({**about, **columns, "seconds": round(seconds, 3)})


def measure_optimism(file, about, pool, n_chosen_on):
    """Hold what nested resampling says of the choice against what it is worth."""
    rows = []
    for seed, (chosen_on, scored_on) in enumerate(splits(len(pool.y), n_chosen_on)):
        if seed == N_NESTED:
            break
        p, y = pool.probabilities[:, chosen_on], pool.y[chosen_on]
        chosen = selection.auto(p, y, MEMBERS, random_state=seed)
        together = chosen.combined(pool.probabilities[:, scored_on])
        choice = chosen.choice
        rows.append(
            {
                "looked": float(choice.mean_losses[choice.chosen]),
                "nested": choice.nested_loss,
                "is": float(
                    selection.negative_log_likelihood(together, pool.y[scored_on])
                ),
                "method": choice.method,
                "n_members": choice.n_members[choice.chosen],
            }
        )
    file.add({**about, "splits": rows})


def main():
    arguments = parse()
    file = ResultsFile(arguments.out, {"splits": N_SPLITS, "few": FEW})
    for name in arguments.pools:
        pool = selection_pools.load(
            name,
            arguments.folder,
            arguments.data,
            preset="smoke" if arguments.smoke else "full",
        )
        run_pool(file, name, pool, arguments.methods)
    print(table(file.results))
    draw(file.results, arguments.picture)


def run_pool(file, name, pool, methods):
    half = len(pool.y) // 2
    for part, n_chosen_on in (("half", half), ("few", min(FEW, half))):
        setting = {"pool": name, "chosen on": part}
        for n_members in MEMBERS:
            for method in methods:
                about = {**setting, "n_members": n_members, "method": method}
                if n_members <= len(pool.probabilities) and not file.has(about):
                    call = METHODS[method]
                    measure(file, about, call, pool, n_members, n_chosen_on)
        for method, call in REFERENCES.items():
            about = {**setting, "n_members": None, "method": method}
            if not file.has(about):
                measure(file, about, call, pool, 1, n_chosen_on)
        about = {**setting, "method": "optimism"}
        if not file.has(about):
            measure_optimism(file, about, pool, n_chosen_on)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="an .npz; without it Keras downloads CIFAR-10")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument(
        "--pools",
        nargs="+",
        choices=selection_pools.POOLS,
        default=list(selection_pools.POOLS),
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.add_argument("--smoke", action="store_true", help="tiny pools")
    return parser.parse_args()


if __name__ == "__main__":
    main()
