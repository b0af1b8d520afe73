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

__all__ = ["float_islands", "without_marks"]


@contextmanager
def float_islands(model: keras.Model) -> Iterator[None]:
    """Mark the inputs of layers in float for what is traced inside the block.

    Args:
        model: A prepared model with constant quantisers.
    """
    layers = _layers_in_float(model)
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


def _marking(call: Callable) -> Callable:
    @functools.wraps(call)
    def marked(*args: Any, **kwargs: Any) -> Any:
        return call(*kept_in_float(args), **kept_in_float(kwargs))

    return marked


def without_marks(operators: list, tensors: list) -> list:
    """Return a graph's operators without the marks, whose readers read their inputs.

    Args:
        operators: The `OperatorT` of the graph, in their order.
        tensors: Its `TensorT`.
    """
    marked = {}
    for operator in operators:
        (first, *_) = operator.outputs
        if FLOAT_SCOPE.encode() in bytes(tensors[first].name):
            marked[first] = operator.inputs[0]
        operator.inputs = [marked.get(i, i) for i in operator.inputs]
    return [x for x in operators if x.outputs[0] not in marked]
