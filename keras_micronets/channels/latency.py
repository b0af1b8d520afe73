"""Predict a model's latency for any choice of channels, operator by operator."""

from collections import defaultdict
from math import prod

import keras
import numpy as np

from keras_micronets.channels.graph import ChannelGraph
from keras_micronets.channels.operator_times import OperatorTimes
from keras_micronets.layers.graph import GraphCall, unroll
from keras_micronets.layers.litert.capabilities import (
    activation_of,
    activation_row,
    is_linear,
    plain_class,
    row_of,
)
from keras_micronets.layers.placement import is_fused

__all__ = ["Latency", "without_times"]

# Their files have other operators than kernels, several for each step.
_WITHOUT_TIMES = (
    *(keras.layers.RNN, keras.layers.Bidirectional),
    *(keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention),
)


class Latency:
    """Predict the latency of a model's int8 file, as the sum over its operators.

    The operators are those that the converter makes: normalisations and rectifiers are
    part of the kernels before them, and what only moves values takes no time. Other
    arithmetic takes as long as an addition of the outputs' size.

    Args:
        model, graph: A model and its `ChannelGraph`.
        lengths: Float array `(axes, groups)`, how many indices of each axis of the
            graph's nodes one channel of a group has.
        times: The `OperatorTimes` of a device.
    """

    def __init__(
        self,
        model: keras.Model,
        graph: ChannelGraph,
        lengths: np.ndarray,
        times: OperatorTimes,
    ):
        # The last column and the row after those of the nodes are for constant lengths.
        n_nodes, n_groups = len(graph.nodes), len(graph.groups)
        one = np.eye(1, n_groups + 1, n_groups)
        self._lengths = np.vstack([np.pad(lengths[:n_nodes], ((0, 0), (0, 1))), one])
        self._times, operators = times, defaultdict(list)
        for name, *operator in _kernel_operators(graph):
            operators[name].append(operator)
        shares = {
            node.layer: row / len(node.channels)
            for node, row in zip(graph.nodes, self._lengths[:-1], strict=True)
            if node.weight is not None and node.role != "reads"
        }
        for name, sizes, outputs in _other_operators(model, shares, one[0]):
            operators[name].append([sizes, [], [len(self._lengths)]])
            self._lengths = np.vstack([self._lengths, outputs])
        self._operators = {
            name: (
                np.array([sizes for sizes, _, _ in rows], float),
                *(_padded([row[i] for row in rows], n_nodes) for i in (1, 2)),
            )
            for name, rows in operators.items()
        }

    def total(self, kept: np.ndarray, *, in_blocks: bool = True) -> np.ndarray:
        """Return the milliseconds of models that keep some channels.

        Args:
            kept: Array `(..., groups)`, how many channels of each group are kept.
            in_blocks: As for `OperatorTimes`.
        """
        lengths = np.asarray(kept) @ self._lengths[:, :-1].T + self._lengths[:, -1]
        total = np.full(lengths.shape[:-1], self._times.overhead)
        for name, (fixed, *axes) in self._operators.items():
            channels = np.stack([lengths[..., rows].prod(-1) for rows in axes], axis=-1)
            fixed = np.broadcast_to(fixed, (*channels.shape[:-1], fixed.shape[-1]))
            sizes = np.concatenate([fixed, channels], axis=-1)
            total += self._times(name, sizes, in_blocks=in_blocks).sum(-1)
        return total

    def marginal(self, kept: np.ndarray) -> np.ndarray:
        """Return the milliseconds of one channel of each group, without blocks."""
        fewer = kept - np.eye(len(kept))
        return self.total(kept, in_blocks=False) - self.total(fewer, in_blocks=False)


def without_times(graph: ChannelGraph) -> list[str]:
    """Return the names of the layers whose operators no table has."""
    found = (x.layer.name for x in graph.nodes if isinstance(x.layer, _WITHOUT_TIMES))
    return [*graph.unknown, *dict.fromkeys(found)]


def _padded(rows, one):
    width = max(map(len, rows))
    return np.array([[*row, *[one] * (width - len(row))] for row in rows], int)


def _kernel_operators(graph):
    """Yield type, fixed sizes, and axes of the inputs and outputs of each kernel."""
    axes, first = defaultdict(dict), {}
    for index, node in enumerate(graph.nodes):
        if node.weight is not None:
            axes[id(node.weight)][index] = node
    for call in graph.kernel_calls:
        nodes, shape = axes[id(call.weight)], call.weight.shape
        if any(isinstance(node.layer, _WITHOUT_TIMES) for node in nodes.values()):
            continue
        reads = [index for index, node in nodes.items() if node.role == "reads"]
        others = [index for index in nodes if index not in reads]
        taps = prod(shape) // prod(shape[node.axis] for node in nodes.values())
        positions = call.positions * prod(map(len, call.axes))
        layer = graph.nodes[(reads or others)[0]].layer
        is_first = first.setdefault(layer, call.weight) is call.weight
        strides = int(np.prod(getattr(layer, "strides", 1))) if is_first else 1
        sizes = (positions * strides, positions, taps)
        name = "FULLY_CONNECTED" if positions * taps == 1 else "CONV_2D"
        yield name if reads else "DEPTHWISE_CONV_2D", sizes, reads, others


def _other_operators(model, shares, whole):
    """Yield type, fixed sizes and channels of each operator without a kernel.

    `shares` has the kept share of the outputs of layers with weights. Of others it is
    that of their inputs.
    """
    found = {}
    for call in unroll(model):
        axis = 1 if _setting(call, "data_format") == "channels_first" else -1
        shapes = [one.shapes[index] for one, index in call.inputs] + call.shapes
        volumes = [prod(map(_size, shape[1:])) for shape in shapes]
        read, positions = (volumes[i] // _size(shapes[i][axis]) for i in (0, -1))
        inputs = [found[one] for one, _ in call.inputs] or [whole]
        mean = np.average(inputs, axis=0, weights=volumes[: len(inputs)])
        found[call] = share = shares.get(call.operation, mean)
        taps = int(np.prod(_setting(call, "pool_size") or 1))
        for name in _types(call):
            yield name, (read, positions, taps), _size(shapes[-1][axis]) * share


def _size(length):
    return length or 1


def _setting(call, name):
    return getattr(call.operation, name, None)


def _types(call: GraphCall) -> list[str]:
    """Return the types of the operators that a call becomes, besides its kernels."""
    operation, row = call.operation, row_of(call.operation)
    if call.is_input or any(is_fused(producer) for producer, _ in call.inputs):
        return []
    name, activation = plain_class(operation).__name__, activation_of(operation)
    types, known = [], activation_row(activation)
    if row.rounding == "mean" or name.startswith("Global"):
        types = ["MEAN"]
    elif row.pools:
        types = ["MAX_POOL_2D" if row.values == "moved" else "AVERAGE_POOL_2D"]
    elif row.rounding == "affine":
        types = ["MUL", "ADD"]
    elif not (row.kernels or row.activation or row.values == "moved"):
        n_steps = 1 if row.values == "joined" else max(len(call.inputs) - 1, 1)
        types = ["MUL" if row.rounding == "product" else "ADD"] * n_steps
    if known.rounding == "hard_swish":
        types += ["HARD_SWISH"]
    elif not (is_linear(operation) or (known.fused and row.kernels)):
        types += ["LOGISTIC", "MUL"] if known.gate else ["LOGISTIC"]
    return types
