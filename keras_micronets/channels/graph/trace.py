from math import prod

import keras
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from keras_micronets import _keras_private
from keras_micronets.channels.graph.node import Flow, Node, Products, described
from keras_micronets.channels.graph.probe import probe
from keras_micronets.channels.graph.rules import rule_of
from keras_micronets.layers.clone import plain_variables


class Ties:
    """Numbers of channels, of which some are tied: kept together or cut together.

    Channels that are needed as they are can be frozen, and with them those that they
    are tied to.

    Example:

    ```python
    ties = Ties()
    a, b = ties.new(2), ties.new(2)
    ties.tie(a, b)
    ties.components()  # array([0, 1, 0, 1])
    ```
    """

    def __init__(self):
        self.n = 0
        self._pairs, self._frozen = [np.zeros((2, 0), int)], []

    def new(self, n: int) -> np.ndarray:
        """Return the numbers of `n` channels that nothing is tied to yet."""
        self.n += n
        return np.arange(self.n - n, self.n)

    def tie(self, first: np.ndarray, second: np.ndarray) -> None:
        """Tie the channels of one array to those of another of its size, in order."""
        self._pairs.append(np.stack([np.ravel(first), np.ravel(second)]))

    def freeze(self, channels: np.ndarray, reason: str) -> None:
        """Let none of some channels be cut, for a reason that the user is told."""
        self._frozen.append((np.ravel(channels), reason))

    def components(self) -> np.ndarray:
        """Return for each channel the number of the set of those it is tied to."""
        first, second = np.concatenate(self._pairs, axis=1)
        graph = coo_array((np.ones(len(first)), (first, second)), (self.n, self.n))
        return connected_components(graph, directed=False)[1]

    def reasons(self) -> dict[int, str]:
        """Return why sets of tied channels are frozen, by their numbers."""
        found, of = {}, self.components()
        for channels, reason in self._frozen:
            for component in np.unique(of[channels]):
                found.setdefault(int(component), reason)
        return found


class Walk:
    """Follow the channels of a model from the layers that make them to their readers.

    A channel goes on through whatever treats it alike and apart from the others; what
    needs it as it is, or is not understood, freezes it.

    Attributes:
        ties: `Ties` of the channels.
        nodes: Dictionary of the `Node`s found, by weight and axis.
        products: List of `Products`, one for each call of a kernel.
        is_open: Boolean, whether kernels multiply as often as an input is large whose
            size the model leaves open.
        unknown: Dictionary from the name of a layer with weights that has no rule to
            its class's name.
    """

    def __init__(self, model: keras.Model):
        self.ties = Ties()
        self.nodes, self.products, self.unknown = {}, [], {}
        self.is_open = False
        inputs, _ = _keras_private.graph_tensors(model)
        flows = [Flow(tensor.shape) for tensor in inputs]
        for flow in self.through(model, flows):
            self.freeze(flow, "the model puts them out")

    def through(self, model: keras.Model, flows: list[Flow]) -> list[Flow]:
        """Return what a model makes of its inputs."""
        inputs, outputs = _keras_private.graph_tensors(model)
        found = dict(zip(map(id, inputs), flows, strict=True))
        for call in _keras_private.graph_calls(model):
            if isinstance(call.operation, keras.layers.InputLayer):
                continue
            read = keras.tree.flatten((call.args, call.kwargs))
            read = [found[id(x)] for x in read if isinstance(x, keras.KerasTensor)]
            made = self._call(call, read)
            found.update(zip(map(id, call.outputs), made, strict=True))
        return [found[id(tensor)] for tensor in outputs]

    def _call(self, call, flows):
        operation = call.operation
        if _keras_private.is_functional(operation):
            self._enter(operation, flows)
            return self.through(operation, flows)
        rule = rule_of(operation)
        if rule is not None:
            shape = call.outputs[0].shape
            return [Flow(shape, rule(self, operation, flows, shape))]
        if not _has_weights(operation):
            return probe(self, call, flows)
        self.unknown[operation.name] = type(operation).__name__
        for flow in flows:
            self.freeze(flow, f"{described(operation)} reads them")
        return [Flow(tensor.shape) for tensor in call.outputs]

    def _enter(self, model, flows):
        """The input layers of an inner model name the numbers of channels, too."""
        inputs, _ = _keras_private.graph_tensors(model)
        for tensor, flow in zip(inputs, flows, strict=True):
            layer, _ = _keras_private.producer(tensor)
            for axis, channels in flow.channels.items():
                self.bind(layer, None, axis, channels, ("batch_shape", axis))

    def freeze(self, flow: Flow, reason: str, *, but: tuple[int, ...] = ()) -> None:
        """Freeze the channels of a tensor, except along some axes."""
        for axis, channels in flow.channels.items():
            if axis not in but:
                self.ties.freeze(channels, reason)

    def channels(self, flow: Flow, axis: int) -> np.ndarray:
        """Return the channels of a tensor's axis; new, frozen ones if it has none."""
        if axis not in flow.channels:
            channels = self.ties.new(flow.shape[axis])
            self.ties.freeze(channels, "inputs, or of unknown origin")
            return channels
        return flow.channels[axis]

    def make(self, layer, weight, axis, setting=None, repeats=1) -> np.ndarray:
        """Return the channels that an axis of a weight makes, the same at each call.

        Args:
            layer, weight, axis, setting: As `Node` has them.
            repeats: Integer, into how many runs of the same channels the axis falls.
        """
        key = (id(weight), axis % len(weight.shape))
        if key not in self.nodes:
            own = self.ties.new(weight.shape[axis] // repeats)
            spread = np.tile(own, repeats)
            self.bind(layer, weight, axis, spread, setting, "makes")
        return self.nodes[key].channels

    def bind(self, layer, weight, axis, channels, setting=None, role="follows"):
        """Note that an axis of a weight, or a setting, is as long as some channels.

        Args:
            layer, weight, axis, channels, setting, role: As `Node` has them.
        """
        key = (id(layer), setting)
        if weight is not None:
            axis %= len(weight.shape)
            key = (id(weight), axis)
        if key in self.nodes:  # the layer is called again
            self.ties.tie(self.nodes[key].channels, channels)
        else:
            self.nodes[key] = Node(layer, weight, axis, channels, setting, role)

    def multiply(self, weight, flow_shape, axes, channels) -> None:
        """Count a kernel's products with a sample.

        Args:
            weight: The kernel.
            flow_shape: Shape of a tensor `(batch, ...)`.
            axes: The axes of it along which the kernel is applied.
            channels: Dictionary from axis to channels, of the axes that have them.
        """
        self.is_open |= None in flow_shape[1:]
        fixed = [flow_shape[axis] for axis in axes if axis not in channels]
        along = tuple(channels[axis] for axis in axes if axis in channels)
        positions = prod(length or 1 for length in fixed)
        self.products.append(Products(weight, positions, along))


def _has_weights(operation):
    """Whether it has any but those of masks and quantisers."""
    if not isinstance(operation, keras.Layer):
        return False
    own = set(map(id, plain_variables(operation)))
    return any(id(weight) in own for weight in operation.weights)
