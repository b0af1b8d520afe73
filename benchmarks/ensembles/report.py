"""Tables and picture of `ensembles/compare.py`."""

import numpy as np

from benchmarks.ensembles.rows import ROWS
from benchmarks.lib.results import half_interval

__all__ = ["best_control", "difference", "draw", "table"]

# Rows of the baseline's inference and training cost: the controls to beat.
CONTROLS = (
    "baseline",
    "regularised",
    "regularised, decay of ensembles",
    "regularised, weight average",
    "label smoothing",
)

COLUMNS = (
    ("accuracy", 15),
    ("minus control", 15),
    ("NLL", 7),
    ("calibr.", 8),
    ("int8", 8),
    ("bytes", 7),
    ("MACs", 7),
    ("latency", 8),
    ("cost", 7),
)


def table(results):
    """Return a table for each task: means over the seeds, as text.

    *Minus control* is the difference from the best regularised control, in points,
    paired by seed, with the half-width of its 95 % interval. Bytes, MACs and latency
    are those of the int8 files, relative to the baseline's int8 file.
    """
    blocks = [_block(task, rows) for task, rows in by_task(results).items()]
    return "\n\n".join(blocks)


def draw(results, path):
    """Draw the difference of each row from the control, a panel for each task."""
    import matplotlib.pyplot as plt

    tasks = {task: by_name(rows) for task, rows in by_task(results).items()}
    names = [name for name in ROWS if any(name in named for named in tasks.values())]
    figure, axes = plt.subplots(
        1, len(tasks), figsize=(14, 7), sharey=True, layout="constrained"
    )
    for ax, (task, named) in zip(axes, tasks.items(), strict=True):
        control = best_control(named)
        ax.axvline(0, color="0.7", linewidth=1, zorder=0)
        for name, rows in named.items():
            gain, half = difference(rows, named[control], "accuracy")
            color = "0.4" if name in CONTROLS else "C0"
            ax.errorbar(
                *(100 * gain, names.index(name)),
                xerr=100 * half,
                marker="o",
                color=color,
                capsize=3,
            )
        ax.set(title=task, xlabel="points over the best control")
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color="0.93")
    costs = [_mean(next(n[x] for n in tasks.values() if x in n), "cost") for x in names]
    labels = [f"{x}  (cost {c:.3g})" for x, c in zip(names, costs, strict=True)]
    axes[0].set_yticks(range(len(names)), labels)
    axes[0].invert_yaxis()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def by_task(results):
    """Return the scored rows of each task; runs for tuning are left out."""
    rows = [row for row in results["runs"] if "accuracy" in row]
    tasks = dict.fromkeys(row["task"] for row in rows)
    return {task: [row for row in rows if row["task"] == task] for task in tasks}


def by_name(rows):
    """Return the rows of each name, by seed, in the order of `ROWS`."""
    found = {n: {r["seed"]: r for r in rows if r["row"] == n} for n in ROWS}
    return {name: by_seed for name, by_seed in found.items() if by_seed}


def best_control(named):
    """Return the name of the control with the best held-out accuracy."""
    known = [name for name in CONTROLS if name in named]
    return max(known, key=lambda name: _mean(named[name], "held_out_accuracy"))


def difference(rows, control, key):
    """Return the mean paired difference, and half its 95 % interval."""
    seeds = rows.keys() & control.keys()
    values = [rows[seed][key] - control[seed][key] for seed in seeds]
    return float(np.mean(values)), half_interval(values)


def _mean(rows, key):
    return float(np.mean([row[key] for row in rows.values()]))


def _block(task, rows):
    named = by_name(rows)
    control = best_control(named)
    seeds = sorted({row["seed"] for row in rows})
    head = f"{task}, {len(seeds)} seeds, best control: {control}"
    titles = f"{'':<34}" + "".join(f"{name:>{width}}" for name, width in COLUMNS)
    return "\n".join([head, titles, *(_line(name, named, control) for name in named)])


def _line(name, named, control):
    rows = named[name]
    int8 = {seed: row["int8"] for seed, row in rows.items()}
    baseline = named.get("baseline", named[control])
    reference = _mean({s: r["int8"] for s, r in baseline.items()}, "bytes")
    accuracies = [row["accuracy"] for row in rows.values()]
    several = len(accuracies) > 1
    spread = f" ± {np.std(accuracies, ddof=1):.1%}" if several else " " * 7
    gain, half = difference(rows, named[control], "accuracy")
    interval = f" ± {100 * half:.1f}" if len(rows) > 1 else " " * 6
    versus = "" if name == control else f"{100 * gain:+.1f}{interval}"
    cells = (
        f"{_mean(rows, 'accuracy'):.1%}{spread}",
        versus,
        f"{_mean(rows, 'nll'):.3f}",
        f"{_mean(rows, 'calibrated_nll'):.3f}",
        f"{_mean(int8, 'accuracy'):.1%}",
        f"{_mean(int8, 'bytes') / reference:.2f}",
        f"{_mean(rows, 'macs'):.2f}",
        f"{_mean(int8, 'latency'):.2f}",
        f"{_mean(rows, 'cost'):.2f}",
    )
    widths = [width for _, width in COLUMNS]
    text = "".join(f"{c:>{w}}" for c, w in zip(cells, widths, strict=True))
    return f"{name:<34}{text}"
