from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np

from keras_micronets.channels.allocation import solve, solve_uniformly
from keras_micronets.channels.counts import KINDS, Counts, check_sizes
from keras_micronets.channels.graph import (
    ChannelGraph,
    channel_graph,
    maskable,
    protect,
)
from keras_micronets.channels.plans import Plan, rows_of
from keras_micronets.layers.clone import clone
from keras_micronets.layers.kernels import Kernel, kernels
from keras_micronets.layers.prepare import prepare

# A budget that less of is used is told of.
NEARLY = 0.97


class Planner:
    """Plans for one model: what is known of it once, for scores that change.

    Args:
        model, allocation, round_to, min_channels, scope: As for `plan`.
        masked: Boolean, whether only channels go that masks can leave out, as every
            kernel that reads them is a twin's. Defaults to `False`.

    Attributes:
        graph: The model's `ChannelGraph`.

    Raises:
        ValueError: If an argument is unusable, or the model has nothing to cut.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        allocation: str = "global",
        round_to: int = 8,
        min_channels: int = 8,
        scope: Callable[[keras.Model], Sequence[Kernel]] | None = None,
        masked: bool = False,
    ):
        _check(allocation, round_to, min_channels)
        self.model, self.allocation, self.round_to = model, allocation, round_to
        self.graph = protect(channel_graph(model), layers_outside(scope, model))
        if masked:
            self.graph = maskable(model, self.graph)
        _check_freedom(model, self.graph)
        self.counts = Counts(model, self.graph)
        free = np.array([group.reason is None for group in self.graph.groups])
        full = self.counts.full
        self.floors = np.where(free, np.minimum(full, min_channels), full)

    def plan(
        self,
        scores: Sequence[np.ndarray],
        *,
        params: float | None = None,
        macs: float | None = None,
    ) -> Plan:
        """Return the plan of the highest scores within a budget.

        Args:
            scores: Float array `(channels,)` for each group.
            params, macs: As for `plan`.

        Raises:
            ValueError: If a budget is unusable, or can't be met.
        """
        limits = self.limits(params=params, macs=macs)
        if self.allocation == "uniform":
            kept = solve_uniformly(
                self.counts, limits, min_channels=self.floors, step=self.round_to
            )
        else:
            pairs = zip(self.graph.groups, scores, strict=True)
            ranked = [_ranked(self.graph, group, own) for group, own in pairs]
            kept = solve(
                self.counts,
                ranked,
                limits,
                min_channels=self.floors,
                step=self.round_to,
            )
        chosen = {
            group.name: tuple(np.sort(np.argsort(-own, kind="stable")[:n]).tolist())
            for group, own, n in zip(self.graph.groups, scores, kept, strict=True)
            if group.reason is None
        }
        return describe(self.graph, self.counts, chosen, limits)

    def meets(self, plan: Plan, **budgets: float | None) -> bool:
        """Return whether a plan keeps no more than some shares allow."""
        limits = self.limits(**budgets)
        return all(getattr(plan, kind)[1] <= limits[kind] for kind in limits)

    def lowest(self, kind: str) -> float:
        """Return the share of parameters or MACs that has to be kept."""
        counts = self.counts
        return counts.total(kind, self.floors) / counts.total(kind, counts.full)

    def limits(
        self, *, params: float | None = None, macs: float | None = None
    ) -> dict[str, float]:
        """Return the numbers that shares allow, by `"params"` or `"macs"`."""
        shares = dict(zip(KINDS, (params, macs), strict=True))
        shares = {kind: share for kind, share in shares.items() if share is not None}
        if not shares or not all(0 < share <= 1 for share in shares.values()):
            raise ValueError(
                "Expected `params`, `macs` or both as shares that may be kept, above 0 "
                f"and at most 1. Received: {shares or 'neither'}."
            )
        if "macs" in shares:
            check_sizes(self.model, self.graph)
        limits = {}
        for kind, share in shares.items():
            smallest = self.lowest(kind)
            if smallest > share:
                raise ValueError(
                    f"Expected a share of {kind} that can be kept: of "
                    f"{self.model.name!r} it is {smallest:.4g} or more. Received: "
                    f"{kind}={share:.4g}. Allow more, or lower `min_channels`."
                )
            limits[kind] = share * self.counts.total(kind, self.counts.full)
        return limits


def describe(
    graph: ChannelGraph,
    counts: Counts,
    chosen: Mapping[str, tuple[int, ...]],
    limits: Mapping[str, float] | None = None,
) -> Plan:
    """Return the `Plan` that keeps some channels.

    Args:
        graph: The model's `ChannelGraph`.
        counts: Its `Counts`.
        chosen: Dictionary from the name of a group to the tuple of channels kept.
        limits: Dictionary from `"params"` or `"macs"` to what was allowed. Defaults to
            `None`.
    """
    kept = np.array([len(chosen.get(g.name, g.channels)) for g in graph.groups])
    both = {
        kind: tuple(round(counts.total(kind, n)) for n in (counts.full, kept))
        for kind in KINDS
    }
    notes = tuple(
        f"{kind}: {both[kind][1] / both[kind][0]:.1%} kept, though "
        f"{limit / both[kind][0]:.1%} were allowed."
        for kind, limit in (limits or {}).items()
        if both[kind][1] < NEARLY * limit
    )
    frozen = {group.name: group.reason for group in graph.groups if group.reason}
    rows = rows_of(graph, counts, kept)
    return Plan(chosen, rows, both["params"], both["macs"], frozen, notes)


def layers_outside(
    scope: Callable[[keras.Model], Sequence[Kernel]] | None, model: keras.Model
) -> set[str]:
    """Return the names of the layers with kernels that a scope does not choose."""
    if scope is None:
        return set()
    if not kernels(model):  # a scope chooses kernels, which plain layers do not list
        model = clone(model)
        prepare(model)
    chosen = {kernel.layer.name for kernel in scope(model)}
    return {kernel.layer.name for kernel in kernels(model)} - chosen


def _ranked(graph, group, scores):
    """Scores in descending order, their mean the number of layers that make them."""
    nodes = [graph.nodes[index] for index in group.nodes]
    n_makers = sum(node.role == "makes" for node in nodes)
    mean = max(float(np.mean(scores)), 1e-12)
    return np.sort(scores)[::-1] / mean * max(n_makers, 1)


def _check(allocation, round_to, min_channels):
    if allocation not in ("global", "uniform"):
        raise ValueError(
            "Expected `allocation` to be 'global' or 'uniform'. Received: "
            f"{allocation!r}."
        )
    if round_to < 1 or min_channels < 1:
        raise ValueError(
            "Expected `round_to` and `min_channels` to be 1 or more. Received: "
            f"round_to={round_to}, min_channels={min_channels}."
        )


def _check_freedom(model, graph):
    if not graph.free:
        reasons = dict.fromkeys(group.reason for group in graph.groups)
        raise ValueError(
            "Expected a model with channels that can be cut. Received: "
            f"{model.name!r}, where none can: {'; '.join(reasons) or 'it has none'}."
        )
