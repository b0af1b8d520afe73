"""Keep the layers in float that have no integer operations, as Keras computes them."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras

from keras_micronets import _keras_private
from keras_micronets.layers.litert.capabilities import reason_for_float
from keras_micronets.layers.litert.float_islands import FLOAT_SCOPE, kept_in_float
from keras_micronets.layers.micro.micro_layer import is_micro_layer

__all__ = ["float_islands", "remove_marks"]


@contextmanager
def float_islands(model: keras.Model) -> Iterator[None]:
    """Mark the inputs of layers in float for what is traced inside the block.

    Args:
        model: A prepared model with constant quantisers.
    """
    layers = [*_layers_in_float(model), *_plain_operations(model)]
    for layer in layers:
        vars(layer)["call"] = _marking(layer.call)
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["call"]


def _layers_in_float(model):
    """Return the layers that are not prepared, neither within others nor around them.

    Prepared layers see to it themselves.
    """
    every = _keras_private.flatten_layers(model)
    prepared = {layer for layer in every if is_micro_layer(layer)}
    inside = {x for layer in prepared for x in _keras_private.flatten_layers(layer)}
    return [
        layer
        for layer in dict.fromkeys(every)
        if layer not in inside
        and reason_for_float(layer)
        and "call" not in vars(layer)
        and prepared.isdisjoint(_keras_private.flatten_layers(layer))
    ]


def _plain_operations(model):
    """Return the operations in graphs that make floats and are not prepared."""
    every = dict.fromkeys(_keras_private.flatten_layers(model))
    graphs = filter(_keras_private.is_functional, every)
    calls = (call for graph in graphs for call in _keras_private.graph_calls(graph))
    found = {
        call.operation: None
        for call in calls
        if not isinstance(call.operation, keras.Layer)
        and keras.backend.is_float_dtype(call.outputs[0].dtype)
    }
    return [one for one in found if "call" not in vars(one)]


def _marking(call: Callable) -> Callable:
    @functools.wraps(call)
    def marked(*args: Any, **kwargs: Any) -> Any:
        marks = kept_in_float((args, kwargs))
        pairs = zip(*map(keras.tree.flatten, (marks, (args, kwargs))), strict=True)
        unmarked = {id(mark): tensor for mark, tensor in pairs}
        outputs = call(*marks[0], **marks[1])
        # A layer may return its inputs, and then nothing is in float.
        return keras.tree.map_structure(lambda x: unmarked.get(id(x), x), outputs)

    return marked


def remove_marks(graph: Any) -> None:
    """Remove the marks from a file's graph: what reads them reads their inputs.

    Args:
        graph: A `SubGraphT`, which is changed.
    """
    marked, kept = {}, []
    for operator in graph.operators:
        outputs, name = list(operator.outputs), FLOAT_SCOPE.encode()
        operator.inputs = [marked.get(i, i) for i in operator.inputs]
        if outputs and name in bytes(graph.tensors[outputs[0]].name):
            marked[outputs[0]] = operator.inputs[0]
        else:
            kept.append(operator)
    graph.operators = kept
    graph.outputs = [marked.get(i, i) for i in graph.outputs]
