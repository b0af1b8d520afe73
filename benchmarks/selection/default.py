"""Evidence for the default selection method of `EnsemblePruner`.

    python -m benchmarks.selection.default --data cifar10.npz --folder pools

`cluster_then_forward` against the best single learner, `top_k` and `greedy`, on pools
that were not used to design it: of another seed, on other images. Pools and splits are
those of `selection/quality.py`, the pools smaller (preset "small"). Rows are written as
they complete; an interrupted run resumes.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.lib.results import RESULTS_FOLDER, ResultsFile
from benchmarks.selection import pools as selection_pools
from benchmarks.selection.quality import FEW, MEMBERS, N_SPLITS, best_one, measure
from benchmarks.selection.quality_report import PARTS, Found
from keras_micronets import selection

RESULTS = RESULTS_FOLDER / "selection_default.json"
DEFAULT = "cluster_then_forward"
METHODS = {
    DEFAULT: selection.cluster_then_forward,
    "one standard error": partial(selection.cluster_then_forward, standard_errors=1),
    "greedy": selection.greedy,
    "top_k": selection.top_k,
    "cluster": selection.cluster,
}
#: Baselines of one member, which do not depend on `n_members`.
SINGLE = {
    "best one": best_one,
    "best one by loss": lambda p, y, n, **_: selection.top_k(p, y, 1, by="loss"),
}
AGAINST = (
    "best one",
    "best one by loss",
    "top_k",
    "greedy",
    "one standard error",
    "cluster",
)


def run_pool(file, name, pool):
    half = len(pool.y) // 2
    for part, n_chosen_on in (("half", half), ("few", min(FEW, half))):
        for n_members in (*MEMBERS, None):
            for method, call in (METHODS if n_members else SINGLE).items():
                about = {"pool": name, "chosen on": part, "n_members": n_members}
                about["method"] = method
                if (n_members or 1) <= len(pool.probabilities) and not file.has(about):
                    measure(file, about, call, pool, n_members or 1, n_chosen_on)


def table(results: dict) -> str:
    """Return the tables of the results, in Markdown."""
    parts = []
    for part, title in PARTS.items():
        found = Found(results, part)
        head = " | ".join(f"minus {name}" for name in AGAINST)
        lines = [
            f"| {title[0].lower()}{title[1:]} | at most | kept | loss | {head} |",
            "|---" * (4 + len(AGAINST)) + "|",
        ]
        lines += [_row(found, pool, n) for pool in found.pools for n in MEMBERS]
        parts.append("\n".join([*lines, *_means(found)]))
    return "\n\n".join(parts)


def _row(found, pool, n):
    losses = found.values(pool, n, DEFAULT, "losses")
    kept = found.values(pool, n, DEFAULT, "kept").mean()
    cells = [_cell(found, _less(found, pool, n, name)) for name in AGAINST]
    return f"| {pool} | {n} | {kept:.1f} | {losses.mean():.4f} | {' | '.join(cells)} |"


def _less(found, pool, n, name):
    """Return the default's loss less another's in thousandths, `(splits,)`."""
    losses = found.values(pool, n, DEFAULT, "losses")
    n = None if name in SINGLE else n
    others = found.values(pool, n, name, "losses")
    return None if others is None else 1000 * (losses - others)


def _cell(found, less):
    if less is None:
        return "failed"
    mark = " **worse**" if less.mean() > found.interval(less) else ""
    return f"{less.mean():+.1f} ± {found.interval(less):.1f}{mark}"


def _means(found):
    """Return a row of means over all pools, and one without the forest."""
    trees = [pool for pool in found.pools if "forest" in pool]
    rows = {"mean of the pools": found.pools}
    rows["mean without the forest"] = [p for p in found.pools if p not in trees]
    return [f"| {name} | | | | {_mean_cells(found, ps)} |" for name, ps in rows.items()]


def _mean_cells(found, pools):
    cells = []
    for name in AGAINST:
        less = [_less(found, pool, n, name) for pool in pools for n in MEMBERS]
        cells.append(f"{np.mean([x.mean() for x in less if x is not None]):+.1f}")
    return " | ".join(cells)


def main():
    arguments = parse()
    file = ResultsFile(
        arguments.out, {"splits": N_SPLITS, "few": FEW, "pools": arguments.preset}
    )
    load = partial(
        selection_pools.load,
        folder=arguments.folder,
        data=arguments.data,
        preset=arguments.preset,
    )
    for name in arguments.pools:
        run_pool(file, name, load(name))
    print(table(file.results))


def parse():
    pools = list(selection_pools.POOLS)
    presets = list(selection_pools.PRESETS)
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="an .npz; without it Keras downloads CIFAR-10")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--pools", nargs="+", choices=pools, default=pools)
    parser.add_argument("--preset", choices=presets, default="small")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
