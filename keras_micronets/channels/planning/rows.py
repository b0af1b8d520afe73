from collections import defaultdict

import numpy as np

from keras_micronets.channels.graph import ChannelGraph
from keras_micronets.channels.planning.counts import KINDS, Counts
from keras_micronets.channels.planning.plan import PlanRow


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
