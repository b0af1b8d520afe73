"""Trace the channels of a model from the layers that produce them to their readers."""

from collections.abc import Collection, Sequence
from math import prod
from typing import Any

import keras
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from keras_micronets import _keras_private
from keras_micronets.channels.graph.node import (
    KernelCall,
    Node,
    Setting,
    TracedTensor,
    describe_operation,
)
from keras_micronets.channels.graph.probe import probe
from keras_micronets.channels.graph.rules import apply_rule
from keras_micronets.channels.graph.run_count import count_by_run
from keras_micronets.layers.litert.capabilities import plain_class, plain_operation
from keras_micronets.layers.state import plain_variables

__all__ = ["ChannelTies", "Tracer"]

# Operations and layers of Keras without weights that multiply matrices.
_PRODUCTS = ("Matmul", "Dot", "Einsum", "Tensordot", "Attention", "AdditiveAttention")


class ChannelTies:
    """Channel numbers, and which are tied: kept, cut and protected together."""

    def __init__(self):
        self.n = 0
        self._pairs, self._protected = [np.zeros((2, 0), int)], []

    def new(self, n: int) -> np.ndarray:
        """Return the numbers of `n` new channels, tied to none."""
        self.n += n
        return np.arange(self.n - n, self.n)

    def tie(self, first: np.ndarray, second: np.ndarray) -> None:
        """Tie the channels of two arrays of the same size, element by element."""
        self._pairs.append(np.stack([np.ravel(first), np.ravel(second)]))

    def protect(self, channels: np.ndarray, reason: str) -> None:
        """Mark channels as protected, with the reason to report."""
        self._protected.append((np.ravel(channels), reason))

    def components(self) -> np.ndarray:
        """Return the component number of each channel; tied channels share one."""
        first, second = np.concatenate(self._pairs, axis=1)
        graph = coo_array((np.ones(len(first)), (first, second)), (self.n, self.n))
        return connected_components(graph, directed=False)[1]

    def reasons(self) -> dict[int, str]:
        """Return the first reason of each protected component, by its number."""
        reasons, components = {}, self.components()
        for channels, reason in self._protected:
            for component in np.unique(components[channels]):
                reasons.setdefault(int(component), reason)
        return reasons


class Tracer:
    """Number the channels of a model, tie them, and bind the layers' weights to them.

    Operations with a rule in `rules`, and those that `probe` finds to keep channels
    apart, pass channels on. All others protect the channels that they receive.

    Attributes:
        ties: The `ChannelTies`.
        nodes: Dictionary of the `Node`s, by weight and axis.
        kernel_calls, unknown, other_macs, uncounted, has_open_sizes: As for
            `ChannelGraph`.
    """

    def __init__(self, model: keras.Model):
        self.ties = ChannelTies()
        self.nodes: dict[tuple, Node] = {}
        self.kernel_calls: list[KernelCall] = []
        self.unknown: dict[str, str] = {}
        self.other_macs, self.uncounted = 0, []
        self.has_open_sizes = False
        inputs, _ = _keras_private.graph_tensors(model)
        tensors = [TracedTensor(tensor.shape) for tensor in inputs]
        for tensor in self.trace(model, tensors):
            self.protect(tensor, "the model returns them")

    def trace(self, model: Any, tensors: list[TracedTensor]) -> list[TracedTensor]:
        """Return the traced outputs of a model, given its traced inputs."""
        inputs, outputs = _keras_private.graph_tensors(model)
        traced = dict(zip(map(id, inputs), tensors, strict=True))
        for call in _keras_private.graph_calls(model):
            if isinstance(call.operation, keras.layers.InputLayer):
                continue
            arguments = keras.tree.flatten((call.args, call.kwargs))
            read = [x for x in arguments if isinstance(x, keras.KerasTensor)]
            results = self._call(call, [traced[id(x)] for x in read])
            traced.update(zip(map(id, call.outputs), results, strict=True))
        return [traced[id(tensor)] for tensor in outputs]

    def _call(self, call, tensors):
        operation = call.operation
        if _keras_private.is_functional(operation):
            self._enter(operation, tensors)
            return self.trace(operation, tensors)
        channels = apply_rule(self, call, tensors)
        if channels is not None:
            pairs = zip(call.outputs, channels, strict=True)
            return [TracedTensor(output.shape, by_axis) for output, by_axis in pairs]
        self._count(call)
        if not _has_weights(operation):
            return probe(self, call, tensors)
        self.unknown[operation.name] = type(operation).__name__
        for tensor in tensors:
            self.protect(tensor, f"{describe_operation(operation)} reads them")
        return [TracedTensor(tensor.shape) for tensor in call.outputs]

    def _count(self, call):
        """Add what an operation without a rule multiplies, if it may."""
        operation = plain_operation(call.operation)
        if not (_has_weights(operation) or _multiplies(operation)):
            return
        found = count_by_run(call)
        if found is None:
            self.uncounted.append(describe_operation(call.operation))
        else:
            self.other_macs += found

    def _enter(self, model, tensors):
        """Bind the input layers of a nested model, which name channel counts too."""
        inputs, _ = _keras_private.graph_tensors(model)
        for symbolic, tensor in zip(inputs, tensors, strict=True):
            layer, _ = _keras_private.producer(symbolic)
            for axis, numbers in tensor.channels.items():
                self.bind(layer, None, axis, numbers, ("batch_shape", axis))

    def protect(
        self, tensor: TracedTensor, reason: str, *, except_axes: Collection[int] = ()
    ) -> None:
        """Protect the channels of a tensor, except along some axes."""
        for axis, channels in tensor.channels.items():
            if axis not in except_axes:
                self.ties.protect(channels, reason)

    def channels(self, tensor: TracedTensor, axis: int) -> np.ndarray:
        """Return the channels of an axis; new, protected ones if it has none."""
        if axis not in tensor.channels:
            channels = self.ties.new(tensor.shape[axis])
            self.ties.protect(channels, "inputs, or of unknown origin")
            return channels
        return tensor.channels[axis]

    def produce(
        self, layer: Any, weight: Any, axis: int, setting: Setting, repeats: int = 1
    ) -> np.ndarray:
        """Return the channels that an axis of a weight produces, the same at each call.

        The axis may repeat the channels, as for groups of a convolution.
        """
        key = (id(weight), axis % len(weight.shape))
        if key not in self.nodes:
            new = self.ties.new(weight.shape[axis] // repeats)
            channels = np.tile(new, repeats)
            self.bind(layer, weight, axis, channels, setting, "produces")
        return self.nodes[key].channels

    def bind(
        self,
        layer: Any,
        weight: Any,
        axis: int,
        channels: np.ndarray,
        setting: Setting = None,
        role: str = "follows",
        size: int = 1,
    ) -> None:
        """Add a `Node` of these attributes, or tie its channels if it exists."""
        key = (id(layer), axis if setting is None else setting)
        if weight is not None:
            axis %= len(weight.shape)
            key = (id(weight), axis)
        if key in self.nodes:  # the layer is called again
            self.ties.tie(self.nodes[key].channels, channels)
        else:
            self.nodes[key] = Node(layer, weight, axis, channels, setting, role, size)

    def add_kernel_call(
        self, weight: Any, shape: tuple, axes: Sequence[int], channels: Any = None
    ) -> None:
        """Add a `KernelCall`: a kernel applied along some axes of a tensor.

        `channels` is a dictionary from axis to channels, for axes that have them.
        """
        channels = channels or {}
        self.has_open_sizes |= None in shape[1:]
        fixed = [shape[axis] for axis in axes if axis not in channels]
        cut = tuple(channels[axis] for axis in axes if axis in channels)
        positions = prod(length or 1 for length in fixed)
        self.kernel_calls.append(KernelCall(weight, positions, cut))


def _multiplies(operation):
    """Whether an operation without weights may multiply matrices."""
    cls = plain_class(operation)
    is_known = cls.__module__.startswith("keras.") and cls is not keras.layers.Lambda
    return not is_known or cls.__name__ in _PRODUCTS


def _has_weights(operation):
    """Whether an operation has weights other than those of masks and quantisers."""
    if not isinstance(operation, keras.Layer):
        return False
    weights = set(map(id, operation.weights))  # variables may be seeds, too
    return any(id(variable) in weights for variable in plain_variables(operation))
