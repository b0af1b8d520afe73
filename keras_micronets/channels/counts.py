from collections import defaultdict
from math import prod

import keras
import numpy as np

from keras_micronets.channels.graph import ChannelGraph, channel_graph
from keras_micronets.layers.clone import plain_variables

KINDS = ("params", "macs")


def count_macs(model: keras.Model) -> int:
    """Return the multiply-accumulates of one sample's prediction.

    Each product of a kernel's weight and a value is one, whatever masks say.

    Args:
        model: A built functional or sequential model, prepared or not.

    Raises:
        ValueError: If the model leaves sizes of its inputs open.

    Example:

    ```python
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])
    keras_micronets.channels.count_macs(model)  # 16
    ```
    """
    graph = channel_graph(model)
    check_sizes(model, graph)
    counts = Counts(model, graph)
    return round(counts.total("macs", counts.full))


def check_sizes(model: keras.Model, graph: ChannelGraph) -> None:
    """Raise a `ValueError` if a model's multiply-accumulates depend on its input."""
    if graph.is_open:
        raise ValueError(
            "Expected a model whose inputs have sizes, for its multiply-accumulates "
            f"depend on them. Received: {model.name!r}, with inputs of shapes "
            f"{[tensor.shape for tensor in model.inputs]}. Give `keras.Input` sizes, "
            "or a budget of parameters."
        )


class Counts:
    """Parameters and multiply-accumulates of a model, for each choice of channels.

    Parameters are those that Keras counts for the plain model, statistics of
    normalisations among them. A multiply-accumulate is one product of a kernel's
    weight and a value in one sample's prediction; additions of biases, normalisations
    and activations are not counted. Twice as many are often given as FLOPs; the
    figures of most papers on pruning count one, as here.

    All are sums of products of lengths of axes, and a length is a sum of numbers of
    channels.

    Args:
        model: A built model, prepared or not.
        graph: Its `ChannelGraph`.

    Attributes:
        full: Integer array `(groups,)`, how many channels each group has.
    """

    def __init__(self, model: keras.Model, graph: ChannelGraph):
        counted = set(map(id, model.weights))  # seeds are variables, but no weights
        variables = [v for v in plain_variables(model) if id(v) in counted]
        self.full = np.array([len(group.channels) for group in graph.groups])
        self.variables = {id(variable): row for row, variable in enumerate(variables)}
        axes = defaultdict(dict)
        for index, node in enumerate(graph.nodes):
            if node.weight is not None:
                axes[id(node.weight)][node.axis] = index
        rows = [_times_by_node(graph)]
        sizes = [_fixed_and_nodes(v.shape, axes[id(v)]) for v in variables]
        products = []
        for found in graph.products:
            fixed, nodes = sizes[self.variables[id(found.weight)]]
            along = [sum(map(len, rows)) + i for i in range(len(found.axes))]
            rows.append(_times_along(graph, found.axes))
            products.append((fixed * found.positions, [*nodes, *along]))
        self._lengths = np.concatenate(rows)
        self._terms = {
            "params": self._stacked(sizes),
            "macs": self._stacked(products),
        }
        self._products = [self.variables[id(found.weight)] for found in graph.products]

    def _stacked(self, terms):
        """Arrays of factors, and of rows of lengths; the row behind the last is 1."""
        width = max((len(rows) for _, rows in terms), default=0)
        one = len(self._lengths)
        padded = [[*rows, *[one] * (width - len(rows))] for _, rows in terms]
        factors = np.array([fixed for fixed, _ in terms], float)
        return factors, np.array(padded, int).reshape(len(terms), width)

    def by_variable(self, kind: str, kept: np.ndarray) -> np.ndarray:
        """Return an array `(variables,)` of parameters or multiply-accumulates.

        Args:
            kind: `"params"` or `"macs"`.
            kept: Array `(groups,)`, how many channels of each group are kept.
        """
        found = self._of_terms(kind, kept)
        if kind == "params":
            return found
        summed = np.zeros(len(self.variables))
        np.add.at(summed, self._products, found)
        return summed

    def total(self, kind: str, kept: np.ndarray) -> float:
        """Return the parameters or multiply-accumulates of the whole model.

        Args:
            kind, kept: As for `by_variable`.
        """
        return float(self._of_terms(kind, kept).sum())

    def _of_terms(self, kind, kept):
        factors, rows = self._terms[kind]
        return factors * self.lengths(kept)[rows].prod(axis=1)

    def lengths(self, kept: np.ndarray) -> np.ndarray:
        """Return the length of the axis of each node of the graph, first of all.

        Args:
            kept: As for `by_variable`.
        """
        return np.append(self._lengths @ kept, 1.0)

    def marginal(self, kind: str, kept: np.ndarray) -> np.ndarray:
        """Return an array `(groups,)`: what one channel more of each group costs.

        Args:
            kind, kept: As for `by_variable`.
        """
        factors, rows = self._terms[kind]
        lengths = self.lengths(kept)[rows]
        slopes = np.zeros(len(self._lengths) + 1)
        for column in range(rows.shape[1]):
            others = np.delete(lengths, column, axis=1).prod(axis=1)
            np.add.at(slopes, rows[:, column], factors * others)
        return slopes[:-1] @ self._lengths


def _times_by_node(graph):
    """How many indices of each node each channel of a group has."""
    times = np.zeros((len(graph.nodes), len(graph.groups)))
    for column, group in enumerate(graph.groups):
        for node, n in group.nodes.items():
            times[node, column] = n
    return times


def _times_along(graph, axes):
    """The same for the axes of a tensor."""
    times = np.zeros((len(axes), len(graph.groups)))
    for row, channels in enumerate(axes):
        for column, group in enumerate(graph.groups):
            found = np.count_nonzero(np.isin(channels, group.channels))
            times[row, column] = found / len(group.channels)
    return times


def _fixed_and_nodes(shape, axes):
    fixed = prod(length for axis, length in enumerate(shape) if axis not in axes)
    return fixed, list(axes.values())
