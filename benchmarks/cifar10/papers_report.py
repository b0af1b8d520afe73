"""Table of `cifar10/papers.py`, and a statement on the claims of the papers."""

import numpy as np

from benchmarks.lib.results import row_label

SETTING = (
    "data",
    "net",
    "train_size",
    "size",
    "epochs",
    "learners",
    "learner_rate",
    "label_noise",
)
CONTROLS = {
    "the parent": ("controls", "parent, float32"),
    "the parent tuned like learners": ("controls", "parent tuned like"),
    "the parent trained on": ("controls", "parent trained on"),
    "one learner": (None, "one learner"),
    "four at random": (None, "4 at random"),
    "the most accurate four": (None, "top 4"),
    "all learners": (None, "all learners"),
    "the deep ensemble": ("controls", "deep ensemble"),
}
STRATEGIES = ("accuracy first, label vectors", "diversity first, label vectors")
POOLS = {"copies": "independent copies", "chain": "sequential learners"}
CLAIMED_POINTS, CLAIMED_SHRINKAGE = 7.0, 0.9


def table(results):
    """Return means and standard deviations over the seeds, a block a setting."""
    lines = []
    for setting, chosen in by_setting(results["runs"]).items():
        lines += [
            f"\n{describe(setting)}, {count(chosen)} (mean ± standard deviation);",
            "int8 except for the first row; sizes in per cent of the first row's file",
            f"{'':<33}{'members':>8}{'accuracy':>15}{'NLL':>7}{'ECE':>7}{'disagr.':>8}"
            f"{'gzip':>11}{'raw %':>7}{'gzip %':>7}",
        ]
        pool = "controls"
        for i, first in enumerate(chosen[0]["rows"]):
            if first["pool"] != pool:
                pool = first["pool"]
                lines.append(f"learners: {POOLS[pool]}")
            lines.append(
                _line(first["name"], [run["rows"][i] for run in chosen], chosen)
            )
    return "\n".join(lines)


def statement(runs):
    """Return what the figures say of the papers' two claims, as text."""
    gains, sizes = [], []
    for setting, chosen in by_setting(runs).items():
        pools = [pool for pool in POOLS if find(chosen[0], pool, "one learner")]
        for pool in pools:
            for strategy in STRATEGIES:
                where = f"{describe(setting)}, {POOLS[pool]}, {strategy}"
                gains.append((where, chosen, pool, strategy))
            sizes.append((f"{describe(setting)}, {POOLS[pool]}", chosen, pool))
    lines = ["Claim: up to 7 points above the parent."]
    lines += _verdicts(gains)
    for where, chosen, pool, strategy in gains:
        lines += [f"{where}, {count(chosen)}:"]
        lines += ["  " + _against(chosen, pool, strategy, c) for c in CONTROLS]
    lines += ["Claim: up to 90 % smaller than the parent."]
    return "\n".join(lines + _sizes(sizes))


def by_setting(runs):
    """Return the runs of each setting, in the order of their seeds."""
    found = {}
    for run in sorted(runs, key=lambda run: run["key"]["seed"]):
        found.setdefault(tuple(run["key"][k] for k in SETTING), []).append(run)
    return found


def describe(setting):
    values = dict(zip(SETTING, setting, strict=True))
    size = values["train_size"] or "all"
    noise = values["label_noise"]
    text = (
        f"{values['net']} on {size} images of {values['data']}, {values['size']} px, "
        f"{values['learners']} learners at {values['learner_rate']:g}"
    )
    return text + (f", {noise:.0%} of the labels wrong" if noise else "")


def count(runs):
    return f"{len(runs)} seeds" if len(runs) > 1 else "1 seed"


def find(run, pool, name):
    """Return the row of a pool whose name begins so, or `None`."""
    rows = [r for r in run["rows"] if r["pool"] == pool and r["name"].startswith(name)]
    return rows[0] if rows else None


def differences(runs, pool, name, control):
    """Return how many points a row is above a control, for each seed."""
    control_pool, control_name = CONTROLS[control]
    return np.array(
        [
            100 * find(run, pool, name)["accuracy"]
            - 100 * find(run, control_pool or pool, control_name)["accuracy"]
            for run in runs
        ]
    )


def _verdicts(gains):
    lines = []
    for control in CONTROLS:
        found = [
            (points, where)
            for where, *row in gains
            for points in differences(*row, control)
        ]
        points, where = max(found)
        mean = np.mean([points for points, _ in found])
        n_above = sum(points > 0 for points, _ in found)
        verdict = "reached" if points >= CLAIMED_POINTS else "not reached"
        lines.append(
            f"  Against {control}: {verdict}. At most {points:+.2f}, {mean:+.2f} on "
            f"average; above it in {n_above} of {len(found)}. Most: {where}."
        )
    return lines


def _against(runs, pool, name, control):
    points = differences(runs, pool, name, control)
    mean = points.mean()
    if len(points) == 1:
        return f"{mean:+.2f} points against {control} (one seed)"
    spread = np.std(points, ddof=1)
    word = "no clear difference"
    if abs(mean) > spread:
        word = "above" if mean > 0 else "below"
    return f"{mean:+.2f} ± {spread:.2f} points against {control}: {word}"


def _sizes(sizes):
    lines = []
    for where, runs, pool in sizes:
        lines.append(f"{where}:")
        for name in ("one learner", *STRATEGIES):
            rows = [(find(run, pool, name), run) for run in runs]
            lines.append("  " + _shrinkage(name, rows))
        rows = [(find(run, "controls", "parent, int8"), run) for run in runs]
        lines.append("  " + _shrinkage("the parent as int8, not pruned", rows))
    return lines


def _shrinkage(name, rows):
    raw = np.array([relative(row, run, "bytes") for row, run in rows])
    gzip = np.array([relative(row, run, "gzip_bytes") for row, run in rows])
    smallest = 1 - min(raw.min(), gzip.min())
    verdict = "reached" if smallest >= CLAIMED_SHRINKAGE else "not reached"
    return (
        f"{name}: {_change(raw.mean())} as a file, {_change(gzip.mean())} when "
        f"gzipped; 90 % {verdict}"
    )


def _change(share):
    return f"{abs(1 - share):.0%} {'smaller' if share <= 1 else 'larger'}"


def relative(row, run, key):
    """Return a row's bytes as a share of the bytes of the float32 parent's file."""
    return row[key] / find(run, "controls", "parent, float32")["bytes"]


def _line(name, rows, runs):
    def mean(key):
        return np.mean([row[key] for row in rows])

    pairs = list(zip(rows, runs, strict=True))
    raw = np.mean([relative(*pair, "bytes") for pair in pairs])
    gzip = np.mean([relative(*pair, "gzip_bytes") for pair in pairs])
    spread = np.std([row["accuracy"] for row in rows], ddof=1) if len(rows) > 1 else 0.0
    several = "disagreement" in rows[0] and mean("members") > 1
    differ = f"{mean('disagreement'):.3f}" if several else ""
    accuracy = f"{mean('accuracy'):.2%} ± {spread:.2%}"
    return (
        f"{row_label(name):<33}{mean('members'):>8.1f}{accuracy:>15}{mean('nll'):>7.3f}"
        f"{mean('ece'):>7.3f}{differ:>8}{mean('gzip_bytes'):>11,.0f}{raw:>7.0%}{gzip:>7.0%}"
    )
