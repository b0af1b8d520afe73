"""The rules of `edge.combine`, as operations of a `.tflite` file."""

from collections.abc import Sequence
from functools import partial, reduce

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_micronets.edge.combine import LEAST
from keras_micronets.export.tflite_graph import TFLiteGraph


def add_probabilities(
    graph: TFLiteGraph, output: int, *, scale: float, dtype: str, from_logits: bool
) -> int:
    """Add what makes a member's output probabilities, as `edge.Member` does.

    Args:
        graph: The graph.
        output: What the member puts out.
        scale: Real value of one of its steps; `0.0` for floats.
        dtype: Its dtype.
        from_logits: Whether these are logits.

    Returns:
        The tensor of the probabilities, `float32`.
    """
    if scale:
        version = {"uint8": 1, "int8": 2}.get(dtype, 3)
        output = graph.add("DEQUANTIZE", output, version=version)
    if from_logits:
        return graph.add("SOFTMAX", output, beta=1.0)
    if not scale:
        return output
    axis = graph.constant(np.int32([-1]))
    total = graph.add("SUM", output, axis, shape=_one_column, keepDims=True)
    # No division by zero: a sum is none, or one step at least.
    total = graph.add("MAXIMUM", total, graph.constant(np.float32(scale)))
    return graph.add("DIV", output, total)


def add_combination(
    graph: TFLiteGraph,
    members: Sequence[int],
    *,
    rule: str,
    weights: Sequence[float] | None,
) -> int:
    """Add the combination of the members' probabilities, and return its tensor."""
    rules = {"mean": _mean, "logit": _mean_logit, "vote": _vote}
    if rule == "weights":
        return _weighted(graph, members, weights)
    return rules[rule](graph, members)


def _mean(graph, members):
    total = reduce(partial(graph.add, "ADD"), members)
    return graph.add("DIV", total, graph.constant(np.float32(len(members))))


def _weighted(graph, members, weights):
    weights = np.asarray(weights, "float32")
    shares = weights / weights.sum()
    terms = [
        graph.add("MUL", member, graph.constant(share))
        for member, share in zip(members, shares, strict=True)
    ]
    return reduce(partial(graph.add, "ADD"), terms)


def _mean_logit(graph, members):
    least = graph.constant(np.float32(LEAST))
    logits = [graph.add("LOG", graph.add("MAXIMUM", p, least)) for p in members]
    return graph.add("SOFTMAX", _mean(graph, logits), beta=1.0)


def _vote(graph, members):
    share = _mean(graph, [_choice(graph, member) for member in members])
    tie_break = np.float32(0.5 / len(members))
    mean = graph.add("MUL", _mean(graph, members), graph.constant(tie_break))
    total = graph.add("ADD", share, mean)
    return graph.add("DIV", total, graph.constant(1 + tie_break))


def _choice(graph, member):
    """Add a vote: one for the most probable class, zero for the others."""
    classes = int(graph.tensors[member].shape[-1])
    best = graph.add(
        "ARG_MAX",
        member,
        graph.constant(np.int32(-1)),
        dtype="int32",
        shape=lambda size: size[:-1],
        outputType=schema.TensorType.INT32,
    )
    depth = graph.constant(np.int32(classes))
    yes, no = graph.constant(np.float32(1)), graph.constant(np.float32(0))
    return graph.add(
        "ONE_HOT", best, depth, yes, no, shape=lambda size: [*size, classes], axis=-1
    )


def _one_column(size):
    return [*size[:-1], 1]
