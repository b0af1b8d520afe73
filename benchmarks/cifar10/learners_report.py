"""Table and plot of `cifar10/learners.py`."""

import numpy as np

from benchmarks.lib.results import half_interval, row_label

SETTING = ("preset", "net", "label_noise", "split")


def table(results):
    """Return means over the seeds, and differences from the baseline, as text.

    Differences are paired: the same images and seeds. The intervals hold 95 % by
    Student's t over the seeds.
    """
    blocks = _by_setting(results["rows"]).items()
    return "\n".join(line for setting, rows in blocks for line in _block(setting, rows))


def _by_setting(rows):
    settings = dict.fromkeys(tuple(row[k] for k in SETTING) for row in rows)
    return {
        setting: [row for row in rows if tuple(row[k] for k in SETTING) == setting]
        for setting in settings
    }


def by_name(rows):
    """Return the rows of each name, in the order of their seeds."""
    names = dict.fromkeys(row["row"] for row in rows)
    ordered = sorted(rows, key=lambda row: row["seed"])
    return {name: [row for row in ordered if row["row"] == name] for name in names}


def difference(rows, controls, key):
    """Return the mean paired difference and half its 95 % interval.

    Args:
        rows: Rows of one name.
        controls: Rows of another, of the same seeds at least.
        key: Name of a figure.
    """
    known = {row["seed"]: row[key] for row in controls}
    differences = [
        row[key] - known[row["seed"]] for row in rows if row["seed"] in known
    ]
    return float(np.mean(differences)), half_interval(differences)


def _block(setting, rows):
    preset, net, noise, split = setting
    named = by_name(rows)
    n_seeds = len({row["seed"] for row in rows})
    lines = [
        f"\n{net}, preset {preset}, label noise {noise:.0%}, {n_seeds} seeds, {split}",
        f"{'':<33}{'accuracy':>15}{'minus baseline':>17}{'NLL':>7}{'ECE':>7}"
        f"{'member':>8}{'disagr.':>8}{'int8':>8}{'gzip':>10}{'cost':>7}{'s':>6}",
    ]
    return lines + [_line(name, named) for name in named]


def _line(name, named):
    rows = named[name]

    def mean(key, of=lambda row: row):
        return np.mean([of(row)[key] for row in rows])

    spread = np.std([row["accuracy"] for row in rows], ddof=1) if len(rows) > 1 else 0
    gain, half = difference(rows, named.get("baseline", rows), "accuracy")
    int8 = f"{mean('accuracy', lambda r: r['int8']):.1%}" if rows[0]["int8"] else ""
    members = np.mean([np.mean(row["members"]) for row in rows])
    return (
        f"{row_label(name):<33}{mean('accuracy'):>8.1%} ± {spread:<4.1%}"
        f"{100 * gain:>+8.1f} ± {100 * half:<6.1f}"
        f"{mean('nll'):>7.3f}{mean('ece'):>7.3f}"
        f"{members:>8.1%}{mean('disagreement'):>8.3f}"
        f"{int8:>8}{mean('gzip_bytes'):>10,.0f}"
        f"{mean('dense_epochs'):>7.1f}{mean('seconds'):>6.0f}"
    )


def draw(results, path):
    """Draw accuracy and log-likelihood over the bytes of the int8 files."""
    import matplotlib.pyplot as plt

    blocks = _by_setting(results["rows"])
    styles = {name: i for i, name in enumerate(by_name(results["rows"]))}
    figure, axes = plt.subplots(
        len(blocks), 2, figsize=(11, 4.2 * len(blocks)), squeeze=False
    )
    for line, ((_, net, noise, _), rows) in zip(axes, blocks.items(), strict=True):
        _panel(line[0], by_name(rows), "accuracy", styles)
        _panel(line[1], by_name(rows), "nll", styles)
        line[0].set(title=f"{net}, label noise {noise:.0%}", ylabel="accuracy")
        line[1].set(ylabel="negative log-likelihood")
    figure.tight_layout(rect=(0, 0.28 / len(blocks), 1, 1))
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _panel(ax, named, key, styles):
    from matplotlib.ticker import NullFormatter

    for name, rows in named.items():
        values, i = [row[key] for row in rows], styles[name]
        ax.errorbar(
            np.mean([row["gzip_bytes"] for row in rows]) / 1000,
            np.mean(values),
            yerr=np.std(values, ddof=1) if len(values) > 1 else 0,
            marker="*" if name.startswith("ours") else "osD^v<>p"[i % 8],
            markersize=12 if name.startswith("ours") else 6,
            color=f"C{i % 10}",
            linestyle="",
            capsize=3,
            label=name,
        )
    ax.set(xscale="log", xlabel="int8 files together, KB after gzip")
    ax.set_xticks([100, 200, 400, 800], ["100", "200", "400", "800"])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.spines[["top", "right"]].set_visible(False)
