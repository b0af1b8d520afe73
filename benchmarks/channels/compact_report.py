"""Tables of `channels/compact.py`."""

import numpy as np

from benchmarks.lib.results import row_label


def table(results):
    """Return the results as tables for the documentation, one for each task."""
    tasks = {}
    for run in results["runs"]:
        tasks.setdefault(run["task"], []).append(run)
    return "\n\n".join(_table(task, runs) for task, runs in tasks.items())


def _table(task, runs):
    lines = [
        f"| {task} | seeds | MACs | parameters | accuracy | minus uniform | NLL |",
        "|---|---|---|---|---|---|---|",
    ]
    for budget in dict.fromkeys(run["budget"] for run in runs):
        rows = {}
        for run in runs:
            if run["budget"] == budget:
                rows.setdefault(run["row"], {})[run["seed"]] = run
        for name, by_seed in rows.items():
            lines.append(
                _line(f"{row_label(name)}, {budget}", by_seed, rows.get("uniform", {}))
            )
    return "\n".join(lines)


def _line(name, by_seed, uniform):
    def mean(key):
        return np.mean([run[key] for run in by_seed.values()])

    common = [seed for seed in by_seed if seed in uniform]
    less = [by_seed[s]["accuracy"] - uniform[s]["accuracy"] for s in common]
    cells = [
        name,
        str(len(by_seed)),
        f"{mean('macs'):,.0f}",
        f"{mean('params'):,.0f}",
        points([run["accuracy"] for run in by_seed.values()], ".1f"),
        points(less, "+.1f") if less and by_seed is not uniform else "",
        f"{mean('nll'):.3f}",
    ]
    return f"| {' | '.join(cells)} |"


def points(shares, form):
    """Return mean and spread of shares in points of per cent."""
    values = 100 * np.array(shares)
    spread = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
    return f"{values.mean():{form}}{spread}"
