"""Which channels to keep: scores, budgets, and the plan that comes of them."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_micronets import _figures
from keras_micronets._figures import FAINT, INK
from keras_micronets.channels.counts import KINDS, Counts
from keras_micronets.channels.graph import ChannelGraph


@dataclass(frozen=True)
class PlanRow:
    """What a plan makes of one layer; each pair is before and after.

    Attributes:
        layer: Its name.
        channels: How many channels it makes, or has where it makes none.
        params: Parameters.
        macs: Multiply-accumulates for one sample.
    """

    layer: str
    channels: tuple[int, int]
    params: tuple[int, int]
    macs: tuple[int, int]


@dataclass(frozen=True)
class Plan:
    """Which channels of a model to keep; it prints as a table.

    Nothing is done by making one: `keras_micronets.channels.cut` does it.

    Attributes:
        kept: Dictionary from the name of a group of channels to the tuple of those that
            stay, counted from 0. Groups that it does not name stay whole.
        rows: A `PlanRow` for each layer that changes or multiplies.
        params, macs: Parameters and multiply-accumulates of the whole model, before
            and after.
        frozen: Dictionary from the name of a group that can't be cut to the reason.
        notes: Tuple of strings, what the budgets did not come to.
    """

    kept: Mapping[str, tuple[int, ...]]
    rows: tuple[PlanRow, ...]
    params: tuple[int, int]
    macs: tuple[int, int]
    frozen: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def kept_channels(self, graph: ChannelGraph) -> np.ndarray:
        """Return for each channel number of a graph whether it stays.

        Args:
            graph: The `ChannelGraph` of the plan's model, or of one of the same layers.

        Raises:
            ValueError: If it is another model's.
        """
        groups = {group.name: group for group in graph.groups}
        keep = np.ones(graph.n_channels, bool)
        for name, kept in self.kept.items():
            group = groups.get(name)
            if problem := _misfit(group, kept):
                raise ValueError(
                    "Expected a plan of this model, or of one of the same layers. "
                    f"Received one for channels of {name!r}, which {problem}."
                )
            keep[group.channels] = False
            keep[group.channels[list(kept)]] = True
        return keep

    def __str__(self):
        title = f"{'layer':<28}{'channels':>15}{'parameters':>25}{'MACs':>29}"
        lines = [title, *(_line(row.layer, row) for row in self.rows)]
        lines.append(_line("all", PlanRow("all", (0, 0), self.params, self.macs)))
        lines += [f"{name} stays as it is: {why}" for name, why in self.frozen.items()]
        return "\n".join([*lines, *self.notes])


def _misfit(group, kept):
    if group is None:
        return "are not there"
    if max(kept, default=0) >= len(group.channels):
        return "are fewer here"
    return group.reason and f"can't be cut here: {group.reason}"


def _line(name, row):
    channels = "" if row.channels == (0, 0) else _pair(row.channels, 6)
    params, macs = _pair(row.params, 11), _pair(row.macs, 13)
    return f"{name:<28}{channels:>15}{params:>25}{macs:>29}"


def _pair(pair, width):
    return f"{pair[0]:>{width},} > {pair[1]:>{width},}"


def rows_of(
    graph: ChannelGraph, counts: Counts, kept: np.ndarray
) -> tuple[PlanRow, ...]:
    """Return what becomes of each layer that has channels and weights.

    Args:
        graph: The model's `ChannelGraph`.
        counts: Its `Counts`.
        kept: Integer array `(groups,)`, how many channels of each group are kept.
    """
    both = (counts.full, kept)
    found = {kind: [counts.by_variable(kind, n) for n in both] for kind in KINDS}
    nodes = defaultdict(list)
    for index, node in enumerate(graph.nodes):
        if node.weight is not None:
            nodes[node.layer].append(index)
    rows = []
    for layer, own in nodes.items():
        weights = {id(graph.nodes[index].weight) for index in own}
        weights |= {id(variable) for variable in layer.weights}
        at = [counts.variables[key] for key in weights if key in counts.variables]
        pairs = [tuple(round(n[at].sum()) for n in found[kind]) for kind in KINDS]
        shown = _shown(graph, own)
        channels = tuple(round(counts.lengths(n)[shown]) for n in both)
        rows.append(PlanRow(layer.name, channels, *pairs))
    return tuple(rows)


def _shown(graph, indices):
    """The axis that a layer makes, or else its first."""
    made = (i for i in indices if graph.nodes[i].role == "makes")
    return next(made, indices[0])


if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KEPT = "#0072B2"


def plot_plan(plan: Plan, *, kind: str = "channels", ax: Any = None) -> "Figure":
    """Draw what a plan leaves of each layer that multiplies.

    A grey bar is what a layer has, and the blue one on it what stays.

    Args:
        plan: A `Plan`.
        kind: `"channels"`, `"params"` or `"macs"`. Defaults to `"channels"`.
        ax: A matplotlib `Axes` to draw on. Defaults to `None`, a new figure.

    Returns:
        The matplotlib `Figure`.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If `kind` is none of these.

    Example:

    ```python
    plan = keras_micronets.channels.plan(model, macs=0.5)
    keras_micronets.channels.plot_plan(plan, kind="macs").savefig("plan.png")
    ```
    """
    titles = {
        "channels": "channels",
        "params": "parameters",
        "macs": "multiply-accumulates for one sample",
    }
    if kind not in titles:
        raise ValueError(
            f"Expected `kind` to be one of {list(titles)}. Received: {kind!r}."
        )
    rows = [row for row in plan.rows if row.macs[0]]
    if ax is None:
        ax = _figures.new_axes(7.2, 1.0 + 0.22 * len(rows))
    names = [row.layer for row in rows]
    pairs = [getattr(row, kind) for row in rows]
    ax.barh(names, [before for before, _ in pairs], color=FAINT, height=0.8)
    ax.barh(names, [after for _, after in pairs], color=_KEPT, height=0.8)
    for place, (before, after) in enumerate(pairs):
        share = f" {after / before:.0%}" if before else ""
        ax.text(before, place, share, va="center", color=INK, fontsize=7)
    ax.invert_yaxis()
    ax.margins(x=0.08, y=0.01)
    ax.tick_params(labelsize=7, length=0)
    ax.set_title(_title(plan, titles[kind]), loc="left", fontsize=9, color=INK)
    return ax.figure


def _title(plan, what):
    params, macs = (after / before for before, after in (plan.params, plan.macs))
    return f"{what}; of all, {params:.1%} of parameters and {macs:.1%} of MACs stay"
