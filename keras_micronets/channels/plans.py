"""The `Plan` of which channels to keep, as a value, a table and a plot."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from keras_micronets import _figures
from keras_micronets._figures import FAINT, INK
from keras_micronets._serialization import Configurable, serializable
from keras_micronets.channels.counts import QUANTITIES, Counts
from keras_micronets.channels.graph import ChannelGraph

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Plan", "PlanRow", "plot_plan"]

_KEPT = "#0072B2"
# A plan notes when it uses less than this share of a budget.
_NOTED_USE = 0.97


class _Value(Configurable):
    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make a value from its configuration, in which Keras has lists for tuples."""
        restored = vars(super().from_config(config))
        return cls(**{name: _with_tuples(value) for name, value in restored.items()})


def _with_tuples(value):
    if isinstance(value, dict):
        return {key: _with_tuples(x) for key, x in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


@serializable()
@dataclass(frozen=True)
class PlanRow(_Value):
    """One layer of a plan; each pair is before and after the cut.

    Attributes:
        layer: Its name.
        channels: How many channels it produces, or has if it produces none.
        params: Parameters.
        macs: Multiply-accumulates for one sample.
    """

    layer: str
    channels: tuple[int, int]
    params: tuple[int, int]
    macs: tuple[int, int]


@serializable()
@dataclass(frozen=True)
class Plan(_Value):
    """Which channels of a model to keep; `print` shows it as a table.

    A plan changes no model; `keras_micronets.channels.cut` applies it.

    Attributes:
        kept: Dictionary from the name of a group to the tuple of its channels that are
            kept, counted from 0. Other groups keep all channels.
        rows: A `PlanRow` for each layer with channels and weights.
        params, macs: Parameters and multiply-accumulates of the whole model, before
            and after.
        protected: Dictionary from the name of a group that cannot be cut to the reason.
        notes: Tuple of strings, one for each budget that is not fully used.
        latency: Predicted milliseconds of the whole model's int8 file, before and
            after; `None` if no budget of latency was given.
    """

    kept: Mapping[str, tuple[int, ...]]
    rows: tuple[PlanRow, ...]
    params: tuple[int, int]
    macs: tuple[int, int]
    protected: Mapping[str, str]
    notes: tuple[str, ...] = ()
    latency: tuple[float, float] | None = None

    def kept_channels(self, graph: ChannelGraph) -> np.ndarray:
        """Return a Boolean array over the channel numbers of a graph, `True` if kept.

        Args:
            graph: The `ChannelGraph` of the plan's model, or of one of the same layers.

        Raises:
            ValueError: If the graph is another model's.
        """
        groups = {group.name: group for group in graph.groups}
        keep = np.ones(graph.n_channels, bool)
        for name, kept in self.kept.items():
            channels = _channels_of(name, kept, groups)
            keep[channels] = False
            keep[channels[list(kept)]] = True
        return keep

    def __str__(self):
        title = f"{'layer':<28}{'channels':>15}{'parameters':>25}{'MACs':>29}"
        lines = [title, *(_line(row.layer, row) for row in self.rows)]
        lines.append(_line("all", PlanRow("all", (0, 0), self.params, self.macs)))
        if self.latency is not None:
            before, after = self.latency
            share = f"{after / before:.1%} of the time"
            lines.append(f"predicted: {before:.4g} > {after:.4g} ms, {share}")
        lines += [f"{name} is protected: {why}" for name, why in self.protected.items()]
        return "\n".join([*lines, *self.notes])


def _channels_of(name, kept, groups):
    """Return the channels of a group by its name, and check that a plan fits them."""
    group = groups.get(name)
    if group is None:
        problem = "are not there"
    elif max(kept, default=0) >= len(group.channels):
        problem = "are fewer here"
    elif group.reason:
        problem = f"are protected here: {group.reason}"
    else:
        return group.channels
    raise ValueError(
        "Expected a plan of this model, or of one of the same layers. Received a plan "
        f"for channels of {name!r}, which {problem}."
    )


def _line(name, row):
    channels = "" if row.channels == (0, 0) else _pair(row.channels, 6)
    params, macs = _pair(row.params, 11), _pair(row.macs, 13)
    return f"{name:<28}{channels:>15}{params:>25}{macs:>29}"


def _pair(pair, width):
    return f"{pair[0]:>{width},} > {pair[1]:>{width},}"


def plan_rows(
    graph: ChannelGraph, counts: Counts, kept: np.ndarray
) -> tuple[PlanRow, ...]:
    """Return a `PlanRow` for each layer with weights, given how many channels stay."""
    before_and_after = (counts.full, kept)
    by_variable = {
        name: [counts.by_variable(name, n) for n in before_and_after]
        for name in QUANTITIES
    }
    lengths = [counts.lengths(n) for n in before_and_after]
    nodes = defaultdict(list)
    for index, node in enumerate(graph.nodes):
        if node.weight is not None:
            nodes[node.layer].append(index)
    rows = []
    for layer, indices in nodes.items():
        weights = {id(graph.nodes[index].weight) for index in indices}
        weights |= {id(variable) for variable in layer.weights}
        variables = [counts.variables[w] for w in weights if w in counts.variables]
        produced = (i for i in indices if graph.nodes[i].role == "produces")
        shown = next(produced, indices[0])
        before, after = (round(float(values[shown])) for values in lengths)
        pairs = {name: _sums(by_variable[name], variables) for name in QUANTITIES}
        rows.append(PlanRow(layer.name, (before, after), **pairs))
    return tuple(rows)


def _sums(before_and_after, variables):
    before, after = (round(float(n[variables].sum())) for n in before_and_after)
    return before, after


def plot_plan(plan: Plan, *, quantity: str = "channels", ax: Any = None) -> "Figure":
    """Plot what a plan keeps of each layer that has multiply-accumulates.

    A grey bar shows a layer before the cut, the blue bar on it what is kept.

    Args:
        plan: A `Plan`.
        quantity: `"channels"`, `"params"` or `"macs"`. Defaults to `"channels"`.
        ax: A matplotlib `Axes` to draw on. Defaults to `None`, a new figure.

    Returns:
        The matplotlib `Figure`.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If `quantity` is unknown.

    Example:

    ```python
    plan = keras_micronets.channels.plan(model, macs=0.5, min_channels=2, round_to=2)
    keras_micronets.channels.plot_plan(plan, quantity="macs").savefig("plan.png")
    ```
    """
    titles = {
        "channels": "channels",
        "params": "parameters",
        "macs": "multiply-accumulates for one sample",
    }
    if quantity not in titles:
        raise ValueError(
            f"Expected `quantity` to be one of {list(titles)}. Received: {quantity!r}."
        )
    rows = [row for row in plan.rows if row.macs[0]]
    if ax is None:
        ax = _figures.new_axes(7.2, 1.0 + 0.22 * len(rows))
    names = [row.layer for row in rows]
    pairs = [getattr(row, quantity) for row in rows]
    ax.barh(names, [before for before, _ in pairs], color=FAINT, height=0.8)
    ax.barh(names, [after for _, after in pairs], color=_KEPT, height=0.8)
    for position, (before, after) in enumerate(pairs):
        share = f" {after / before:.0%}" if before else ""
        ax.text(before, position, share, va="center", color=INK, fontsize=7)
    ax.invert_yaxis()
    ax.margins(x=0.08, y=0.01)
    ax.tick_params(labelsize=7, length=0)
    params, macs = (after / before for before, after in (plan.params, plan.macs))
    title = f"{titles[quantity]}; {params:.1%} of all parameters, {macs:.1%} of MACs"
    ax.set_title(title, loc="left", fontsize=9, color=INK)
    return ax.figure


def build_plan(
    graph: ChannelGraph,
    counts: Counts,
    chosen: Mapping[str, tuple[int, ...]],
    limits: Mapping[str, float] | None = None,
) -> Plan:
    """Return the `Plan` that keeps chosen channels, and note unused limits."""
    kept = np.array([len(chosen.get(g.name, g.channels)) for g in graph.groups])
    names = (*QUANTITIES, "latency") if counts.latency else QUANTITIES
    totals = {
        name: (counts.total(name, counts.full), counts.total(name, kept))
        for name in names
    }
    notes = tuple(
        f"{name}: {totals[name][1] / totals[name][0]:.1%} kept, though "
        f"{limit / totals[name][0]:.1%} were allowed."
        for name, limit in (limits or {}).items()
        if totals[name][1] < _NOTED_USE * limit
    )
    protected = {group.name: group.reason for group in graph.groups if group.reason}
    rows = plan_rows(graph, counts, kept)
    latency = totals.pop("latency", None)
    params, macs = ((round(a), round(b)) for a, b in totals.values())
    return Plan(chosen, rows, params, macs, protected, notes, latency)
