"""Count parameters and multiply-accumulates for any choice of channels."""

import warnings
from collections import defaultdict
from math import prod

import keras
import numpy as np

from keras_micronets.channels.graph import ChannelGraph, channel_graph
from keras_micronets.channels.latency import Latency
from keras_micronets.layers.state import plain_variables

__all__ = ["Counts", "count_macs"]

QUANTITIES = ("params", "macs")


def count_macs(model: keras.Model) -> int:
    """Return the number of multiply-accumulates for one sample.

    One is the product of a kernel's weight and a value; masked weights count too.
    Biases, normalisation and activations are not counted. Wrappers, matrix products and
    custom layers are run on zeros, and the products of `keras.ops` that they call are
    counted.

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
    """Raise a `ValueError` if a model's multiply-accumulates depend on its input.

    Operations whose multiply-accumulates could not be counted are named in a warning.
    """
    if graph.uncounted:
        warnings.warn(
            f"The multiply-accumulates of {model.name!r} do not include those of "
            f"{', '.join(graph.uncounted)}, which cannot be run on zeros.",
            stacklevel=4,
        )
    if graph.has_open_sizes:
        raise ValueError(
            "Expected a model with fixed input sizes, on which its number of "
            f"multiply-accumulates depends. Received: {model.name!r}, with inputs of "
            f"shapes {[tensor.shape for tensor in model.inputs]}. Give `keras.Input` "
            "sizes, or set a budget of `params` only."
        )


class Counts:
    """Parameters and multiply-accumulates of a model, for any numbers of channels.

    Both are sums of terms. A term is a fixed factor times the lengths of some axes, and
    the length of an axis is a weighted sum of the groups' numbers of channels. A
    `Latency` adds milliseconds.

    Attributes:
        full: Integer array `(groups,)`, the number of channels of each group.
        variables: Dictionary from the `id` of a plain variable to its index.
        axis_lengths: Float array `(axes, groups)`, how many indices of an axis one
            channel of a group has; the axes of the graph's nodes come first.
        latency: The `Latency` for `"latency"`. Defaults to `None`.
    """

    latency: Latency | None = None

    def __init__(self, model: keras.Model, graph: ChannelGraph):
        counted = set(map(id, model.weights))  # seeds are variables, but no weights
        variables = [v for v in plain_variables(model) if id(v) in counted]
        self.full = np.array([len(group.channels) for group in graph.groups])
        self._other_macs = graph.other_macs
        self.variables = {id(variable): row for row, variable in enumerate(variables)}
        axes = defaultdict(dict)
        for index, node in enumerate(graph.nodes):
            if node.weight is not None:
                axes[id(node.weight)][node.axis] = index
        sizes = [_fixed_and_rows(v.shape, axes[id(v)]) for v in variables]
        calls = graph.kernel_calls
        self._call_variables = [self.variables[id(call.weight)] for call in calls]
        lengths, products = [node.channels for node in graph.nodes], []
        for call, variable in zip(calls, self._call_variables, strict=True):
            fixed, rows = sizes[variable]
            fixed, rows = (fixed, rows) if call.of_weight else (1, [])
            products.append((fixed * call.positions, [*rows]))
            for channels in call.axes:
                products[-1][1].append(len(lengths))
                lengths.append(channels)
        self.axis_lengths = _lengths(graph, lengths)
        self._terms = {"params": self._stack(sizes), "macs": self._stack(products)}

    def _stack(self, terms):
        """Return arrays of factors and of rows of lengths, padded by a row of ones."""
        width = max((len(rows) for _, rows in terms), default=0)
        one = len(self.axis_lengths)
        padded = [[*rows, *[one] * (width - len(rows))] for _, rows in terms]
        factors = np.array([fixed for fixed, _ in terms], float)
        return factors, np.array(padded, int).reshape(len(terms), width)

    def total(self, quantity: str, kept: np.ndarray) -> float:
        """Return the size or the cost of a model that keeps some channels.

        Args:
            quantity: `"params"`, parameters, `"macs"`, multiply-accumulates, or
                `"latency"`, milliseconds.
            kept: Array `(groups,)`, how many channels of each group are kept.
        """
        if self.latency and quantity == "latency":
            return float(self.latency.total(kept))
        other = self._other_macs if quantity == "macs" else 0
        return float(self._of_terms(quantity, kept).sum()) + other

    def by_variable(self, quantity: str, kept: np.ndarray) -> np.ndarray:
        """Return what `total` sums, per variable: an array `(variables,)`."""
        terms = self._of_terms(quantity, kept)
        if quantity == "params":
            return terms
        sums = np.zeros(len(self.variables))
        np.add.at(sums, self._call_variables, terms)
        return sums

    def _of_terms(self, quantity, kept):
        factors, rows = self._terms[quantity]
        return factors * self.lengths(kept)[rows].prod(axis=1)

    def lengths(self, kept: np.ndarray) -> np.ndarray:
        """Return the lengths of the axes of the nodes, then of the kernel calls."""
        return np.append(self.axis_lengths @ kept, 1.0)

    def marginal(self, quantity: str, kept: np.ndarray) -> np.ndarray:
        """Return the derivative of `total` by each group's number of channels."""
        if self.latency and quantity == "latency":
            return self.latency.marginal(kept)
        factors, rows = self._terms[quantity]
        lengths = self.lengths(kept)[rows]
        slopes = np.zeros(len(self.axis_lengths) + 1)
        for column in range(rows.shape[1]):
            others = np.delete(lengths, column, axis=1).prod(axis=1)
            np.add.at(slopes, rows[:, column], factors * others)
        return slopes[:-1] @ self.axis_lengths


def _lengths(graph, axes):
    """Return how many indices one channel of each group has, `(axes, groups)`."""
    n_groups, sizes = len(graph.groups), [len(group.channels) for group in graph.groups]
    group_of = np.full(1 + max((int(c.max()) for c in axes), default=0), n_groups)
    for index, group in enumerate(graph.groups):
        group_of[group.channels] = index
    counts = [np.bincount(group_of[c], minlength=n_groups + 1)[:-1] for c in axes]
    return np.array(counts).reshape(len(axes), n_groups) / sizes


def _fixed_and_rows(shape, axes):
    """Return the product of a variable's fixed axes, and the nodes of the others."""
    fixed = prod(length for axis, length in enumerate(shape) if axis not in axes)
    return fixed, list(axes.values())
