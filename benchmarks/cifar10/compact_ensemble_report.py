"""Table of `cifar10/compact_ensemble.py`."""

import numpy as np

from benchmarks.cifar10.compact_report import points
from benchmarks.lib.results import row_label


def table(results):
    """Return the results as a table for the documentation."""
    rows = {}
    for run in results["runs"]:
        rows.setdefault(run["row"], {})[run["seed"]] = run
    lines = [
        "| row | seeds | MACs | bytes | accuracy | minus baseline | one member | NLL |",
        "|---|---|---|---|---|---|---|---|",
    ]
    base = rows.get("baseline", {})
    for name, by_seed in rows.items():
        common = [seed for seed in by_seed if seed in base]
        less = [by_seed[s]["accuracy"] - base[s]["accuracy"] for s in common]
        runs = by_seed.values()
        cells = [
            row_label(name),
            str(len(by_seed)),
            f"{np.mean([run['macs'] for run in runs]):,.0f}",
            f"{np.mean([run['bytes'] for run in runs]):,.0f}",
            points([run["accuracy"] for run in runs], ".1f"),
            "" if by_seed is base else points(less, "+.1f"),
            points([run["member_accuracy"] for run in runs], ".1f"),
            f"{np.mean([run['nll'] for run in runs]):.3f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
