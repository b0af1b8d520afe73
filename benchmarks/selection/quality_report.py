"""Tables and plot of `selection/quality.py`."""

from pathlib import Path

import numpy as np
from scipy import stats

MEMBERS = (2, 4, 8, 16)
PARTS = {"half": "Chosen on half of the samples", "few": "Chosen on 300 samples"}
SHOWN = {
    "auto": "#C1121F",
    "greedy": "#0072B2",
    "cluster": "#E69F00",
    "cluster on double_fault": "#009E73",
    "prune2edge": "#7F5539",
    "random_k": "#9a9a9a",
}

BANDS = ("greedy", "cluster")


class Found:
    """Results of one way to split, as arrays.

    Args:
        results: What the script wrote.
        part: `"half"` or `"few"`.
    """

    def __init__(self, results: dict, part: str):
        self.part = part
        self.rows = [row for row in results["runs"] if row["chosen on"] == part]
        self.pools = list(dict.fromkeys(row["pool"] for row in self.rows))
        self.methods = list(
            dict.fromkeys(row["method"] for row in self.rows if row.get("n_members"))
        )

    def values(self, pool: str, n_members: int | None, method: str, what: str):
        """Return a float array of shape `(splits,)`, or `None` for no answer."""
        about = {"pool": pool, "n_members": n_members, "method": method}
        row = next(row for row in self.rows if about.items() <= row.items())
        return None if row[what] is None else np.array(row[what])

    def interval(self, differences: np.ndarray) -> float:
        """Return half the width of a 95 % interval of a mean over splits.

        Halves overlap from split to split: the variance is that of Nadeau and Bengio
        (2003). Of 300 samples it is that of the draws.
        """
        n = len(differences)
        overlap = 1.0 if self.part == "half" else 0.0
        deviation = differences.std(ddof=1) * np.sqrt(1 / n + overlap)
        return float(stats.t.ppf(0.975, n - 1) * deviation)

    def mean_over_pools(self, by_pool: list[np.ndarray]) -> tuple[float, float]:
        """Return a mean of pools' means, and half the width of its interval."""
        widths = [self.interval(values) for values in by_pool]
        mean = float(np.mean([values.mean() for values in by_pool]))
        return mean, float(np.sqrt(np.sum(np.square(widths))) / len(widths))

    def ranks(self, n_members: int) -> dict[str, list[np.ndarray]]:
        """Rank the methods by loss on each split: `(splits,)` a pool."""
        found = {method: [] for method in self.methods}
        for pool in self.pools:
            losses = {
                method: self.values(pool, n_members, method, "losses")
                for method in self.methods
            }
            table = [x for x in losses.values() if x is not None]
            ranks = iter(stats.rankdata(table, axis=0))
            for method, values in losses.items():
                if values is not None:
                    found[method].append(next(ranks))
        return found

    def over_top_k(self, n_members: int, method: str, what: str) -> list[np.ndarray]:
        """Return what a method loses to `top_k`, `(splits,)` a pool."""
        pairs = [
            [self.values(pool, n_members, name, what) for name in (method, "top_k")]
            for pool in self.pools
        ]
        return [ours - theirs for ours, theirs in pairs if ours is not None]


def table(results: dict) -> str:
    """Return the tables of the results, in Markdown."""
    parts = []
    for part, title in PARTS.items():
        found = Found(results, part)
        parts += [f"**{title}**", _differences(found, "losses")]
        if part == "half":
            parts += [_ranks(found), _differences(found, "errors")]
        parts += [_auto(found), _optimism(found)]
    return "\n\n".join(parts)


def _ranks(found):
    ranks = {n: found.ranks(n) for n in MEMBERS}
    order = sorted(
        found.methods,
        key=lambda m: np.mean([np.mean(ranks[n][m]) for n in MEMBERS]),
    )
    cells = {
        method: [_cell(*found.mean_over_pools(ranks[n][method]), 1) for n in MEMBERS]
        for method in order
    }
    return _by_members(f"mean rank of {len(order)}, by loss", cells)


def _differences(found, what):
    factor, digits = {"losses": (1000, 1), "errors": (100, 2)}[what]
    unit = {"losses": "loss in thousandths", "errors": "errors, points"}[what]
    cells = {
        method: [
            _cell(
                *found.mean_over_pools(
                    [factor * x for x in found.over_top_k(n, method, what)]
                ),
                digits,
                sign="+",
            )
            for n in MEMBERS
        ]
        for method in found.methods
        if method != "top_k"
    }
    return _by_members(f"{unit}, minus top_k", cells)


def _by_members(title, cells):
    head = " | ".join(f"{n} members" for n in MEMBERS)
    lines = [f"| {title} | {head} |", "|---" * (len(MEMBERS) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(row)} |" for name, row in cells.items()]
    return "\n".join(lines)


def _cell(mean, width, digits, sign=""):
    return f"{mean:{sign}.{digits}f} ± {width:.{digits}f}"


def auto_against_the_best(found: Found) -> list[tuple]:
    """Hold `auto` against the single method that was best in hindsight.

    Returns:
        For each pool and number of members: the pool, the number, the best method,
        the mean of `auto`'s loss less its, and half the width of the interval.
    """
    singles = [m for m in found.methods if not m.startswith("auto")]
    rows = []
    for pool in found.pools:
        for n in MEMBERS:
            losses = {m: found.values(pool, n, m, "losses") for m in singles}
            losses = {m: x for m, x in losses.items() if x is not None}
            best = min(losses, key=lambda m: losses[m].mean())
            less = found.values(pool, n, "auto", "losses") - losses[best]
            rows.append((pool, n, best, less.mean(), found.interval(less)))
    return rows


def _auto(found):
    lines = [
        "| pool | members | best in hindsight | auto minus best, thousandths |",
        "|---|---|---|---|",
    ]
    for pool, n, best, mean, width in auto_against_the_best(found):
        mark = " **worse**" if mean > width else ""
        cell = _cell(1000 * mean, 1000 * width, 1, sign="+")
        lines.append(f"| {pool} | {n} | {best} | {cell}{mark} |")
    return "\n".join(lines)


def _optimism(found):
    lines = [
        "| auto over 2 to 16 members | cross-validated | nested resampling | true |",
        "|---|---|---|---|",
    ]
    for row in found.rows:
        if row["method"] == "optimism":
            means = [
                np.mean([split[key] for split in row["splits"]])
                for key in ("looked", "nested", "is")
            ]
            cells = " | ".join(f"{mean:.4f}" for mean in means)
            lines.append(f"| {row['pool']} | {cells} |")
    return "\n".join(lines)


def draw(results: dict, path: Path) -> None:
    """Draw the loss of some methods, less that of `top_k`, by members and pool."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    found = Found(results, "half")
    figure, axes = plt.subplots(
        1, len(found.pools), figsize=(2.5 * len(found.pools), 3.4), layout="constrained"
    )
    for ax, pool in zip(np.atleast_1d(axes), found.pools, strict=True):
        _draw_pool(ax, found, pool)
    np.atleast_1d(axes)[0].set_ylabel("loss less that of top_k, thousandths")
    handles, labels = np.atleast_1d(axes)[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw_pool(ax, found, pool):
    ax.axhline(0, color="#333333", lw=0.8)
    for method, colour in SHOWN.items():
        pairs = [
            [found.values(pool, n, name, "losses") for name in (method, "top_k")]
            for n in MEMBERS
        ]
        less = [1000 * (ours - theirs) for ours, theirs in pairs]
        means = [x.mean() for x in less]
        ax.plot(MEMBERS, means, "o-", ms=3, lw=1.4, color=colour, label=method)
        if method in BANDS:
            widths = [found.interval(x) for x in less]
            low, high = np.subtract(means, widths), np.add(means, widths)
            ax.fill_between(MEMBERS, low, high, color=colour, alpha=0.15, lw=0)
    ax.set_xscale("log", base=2)
    ax.set_xticks(MEMBERS, MEMBERS)
    ax.set_title(pool, fontsize=10, loc="left")
    ax.set_xlabel("members")
    ax.spines[["top", "right"]].set_visible(False)
