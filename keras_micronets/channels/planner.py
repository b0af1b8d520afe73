"""Plan which channels to keep within budgets of parameters and multiply-accumulates."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import keras
import numpy as np

from keras_micronets.channels.allocation import allocate, allocate_uniformly
from keras_micronets.channels.counts import Counts, check_sizes
from keras_micronets.channels.graph import channel_graph
from keras_micronets.channels.latency import Latency, without_times
from keras_micronets.channels.operator_times import OperatorTimes
from keras_micronets.channels.plans import Plan, build_plan
from keras_micronets.layers.clone import clone
from keras_micronets.layers.kernels import Kernel, kernels
from keras_micronets.layers.micro.normalization import MicroAveraging
from keras_micronets.layers.prepare import prepare
from keras_micronets.layers.scope import Scope

__all__ = ["Planner"]


class Planner:
    """Make plans for one model, reading its graph once.

    Args:
        model, allocation, round_to, min_channels, scope: As for `plan`.
        operator_times: The `OperatorTimes` of a device, for a budget of latency.
            Defaults to `None`.
        masked: Boolean, whether to protect channels that masks cannot leave out, since
            a layer without a mask reads them. Defaults to `False`.

    Attributes:
        graph: The model's `ChannelGraph`.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        allocation: str = "global",
        round_to: int = 8,
        min_channels: int = 8,
        scope: Callable[[keras.Model], Sequence[Kernel]] | None = None,
        operator_times: OperatorTimes | None = None,
        masked: bool = False,
    ):
        _check_arguments(allocation, round_to, min_channels)
        self.model, self.allocation = model, allocation
        self.graph = _protect(
            channel_graph(model),
            layers_outside(scope, model),
            {id(kernel.variable) for kernel in kernels(model)} if masked else None,
        )
        _check_prunable(model, self.graph)
        self.counts = Counts(model, self.graph)
        if operator_times is not None:
            lengths = self.counts.axis_lengths
            self.counts.latency = Latency(model, self.graph, lengths, operator_times)
        full = self.counts.full
        prunable = np.array([group.reason is None for group in self.graph.groups])
        sizes = _sizes(self.graph)
        self.round_to = -(-round_to // sizes)
        least = np.minimum(full, -(-min_channels // sizes))
        self.min_channels = np.where(prunable, least, full)

    def plan(
        self,
        importance: Sequence[np.ndarray],
        *,
        params: float | None = None,
        macs: float | None = None,
        latency: float | None = None,
    ) -> Plan:
        """Return the plan of the highest importance within budgets.

        Args:
            importance: Float array `(channels,)` for each group of the graph.
            params, macs, latency: As for `plan`; the latency is the predicted one.
        """
        groups = self.graph.groups
        limits = self.limits(params=params, macs=macs, latency=latency)
        options = {"min_channels": self.min_channels, "round_to": self.round_to}
        if self.allocation == "uniform":
            kept = allocate_uniformly(self.counts, limits, **options)
        else:
            pairs = zip(groups, importance, strict=True)
            ranked = [_ranked(self.graph, group, scores) for group, scores in pairs]
            kept = allocate(self.counts, ranked, limits, **options)
        chosen = {
            group.name: tuple(np.sort(np.argsort(-scores, kind="stable")[:n]).tolist())
            for group, scores, n in zip(groups, importance, kept, strict=True)
            if group.reason is None
        }
        return build_plan(self.graph, self.counts, chosen, limits)

    def meets(self, plan: Plan, **budgets: float | None) -> bool:
        """Return whether a plan is within budgets, given as for `plan`."""
        limits = self.limits(**budgets)
        return all(getattr(plan, name)[1] <= limits[name] for name in limits)

    def smallest_share(self, quantity: str) -> float:
        """Return the smallest share of a quantity of `Counts` that a plan can keep."""
        total = self.counts.total
        return total(quantity, self.min_channels) / total(quantity, self.counts.full)

    def limits(
        self,
        *,
        params: float | None = None,
        macs: float | None = None,
        latency: float | None = None,
    ) -> dict[str, float]:
        """Return the largest numbers within budgets, by the names of the budgets."""
        shares = {"params": params, "macs": macs, "latency": latency}
        shares = {name: share for name, share in shares.items() if share is not None}
        if not shares or not all(0 < share <= 1 for share in shares.values()):
            raise ValueError(
                "Expected one or more of `params`, `macs` and `latency` as shares that "
                f"may be kept, above 0 and at most 1. Received: {shares or 'none'}."
            )
        if "latency" in shares and not self.counts.latency:
            raise ValueError(
                "Expected `operator_times` with a budget of latency. Received: None."
            )
        if "latency" in shares and (unknown := without_times(self.graph)):
            warnings.warn(
                f"The latency of {self.model.name!r} does not include that of "
                f"{', '.join(unknown)}, of which no times are known.",
                stacklevel=3,
            )
        if shares.keys() & {"macs", "latency"}:
            check_sizes(self.model, self.graph)
        for name, share in shares.items():
            smallest = self.smallest_share(name)
            if smallest > share:
                raise ValueError(
                    f"Expected a budget that {self.model.name!r} can meet: {name} of "
                    f"{smallest:.4g} or more. Received: {name}={share:.4g}. Raise the "
                    "budget, or lower `min_channels`."
                )
        full = self.counts.full
        return {name: x * self.counts.total(name, full) for name, x in shares.items()}


def layers_outside(
    scope: Callable[[keras.Model], Sequence[Kernel]] | None, model: keras.Model
) -> set[str]:
    """Return the names of the layers whose kernels a scope does not choose."""
    if scope is None:
        return set()
    if not kernels(model):  # only prepared layers have handles for a scope to choose
        model = clone(model)
        prepare(model)
    if isinstance(scope, Scope):
        scope = scope.explicit()  # channels go through all layers between two others
    chosen = {id(kernel.layer) for kernel in scope(model)}
    left_out = (kernel for kernel in kernels(model) if id(kernel.layer) not in chosen)
    return {kernel.outermost.name for kernel in left_out}


def _protect(graph, outside, masked):
    """Return the graph with more groups protected.

    Args:
        graph: A `ChannelGraph`.
        outside: Names of layers that keep all their channels.
        masked: The `id`s of the variables with masks; `None` to need no masks.
    """

    def reason(group):
        nodes = [graph.nodes[index] for index in group.nodes]
        if any(node.layer.name in outside for node in nodes):
            return "outside the scope"
        if masked is None:
            return None
        for node in nodes:
            if node.role == "averages" and not isinstance(node.layer, MicroAveraging):
                return f"{node.layer.name} takes a mean or maximum over them"
        for node in nodes:
            if node.role == "reads" and id(node.weight) not in masked:
                return f"{node.layer.name} has no mask to leave them out"
        return None

    groups = [replace(g, reason=g.reason or reason(g)) for g in graph.groups]
    return replace(graph, groups=tuple(groups))


def _sizes(graph):
    """Return the width of one channel of each group: for attention, that of a head."""
    by_group = ([graph.nodes[i].size for i in group.nodes] for group in graph.groups)
    return np.array([max(sizes, default=1) for sizes in by_group], int)


def _ranked(graph, group, importance):
    """Sort in descending order; scale the mean to the number of producing layers."""
    nodes = [graph.nodes[index] for index in group.nodes]
    n_producers = len({id(n.layer) for n in nodes if n.role == "produces"})
    mean = max(float(np.mean(importance)), 1e-12)
    return np.sort(importance)[::-1] / mean * max(n_producers, 1)


def _check_arguments(allocation, round_to, min_channels):
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


def _check_prunable(model, graph):
    if not graph.prunable:
        reasons = dict.fromkeys(group.reason for group in graph.groups)
        raise ValueError(
            "Expected a model with channels that can be cut. Received: "
            f"{model.name!r}, where none can: {'; '.join(reasons) or 'it has none'}."
        )
