"""Tag the results of operations that stand in a graph without a layer.

Such operations hold no state, and so no quantisers: the layers that read them do.
"""

import functools

import keras

from keras_micronets import _keras_private
from keras_micronets.layers.litert.capabilities import OPERATIONS
from keras_micronets.layers.litert.integer_operations import (
    difference_of,
    product_of,
    quotient_of,
    sum_of,
)
from keras_micronets.layers.litert.provenance import (
    integer_operation_of,
    quantizer_of,
    tag,
)

__all__ = ["MICRO_OPERATIONS", "prepare_operations"]

_FUNCTIONS = {
    "sum": sum_of,
    "difference": difference_of,
    "product": product_of,
    "quotient": quotient_of,
}


def _arithmetic(base, row):
    function = _FUNCTIONS[row.rounding]

    def call(self, x1, x2):
        return tag(base.call(self, x1, x2), function(x1, x2))

    return call


def _moving(base, row):
    def call(self, x, *args, **kwargs):
        outputs, quantizer = base.call(self, x, *args, **kwargs), quantizer_of(x)
        if quantizer is not None and quantizer.constant:
            # The converter loses the scale of one result that two operations read.
            return keras.tree.map_structure(quantizer, outputs)
        operation = integer_operation_of(x)
        origin = operation if operation and operation.by_value else quantizer
        for output in keras.tree.flatten(outputs):
            tag(output, origin)
        return outputs

    return call


def _make(base, call):
    name = f"Micro{base.__name__}Operation"
    doc = f"A `{base.__name__}` operation whose result remembers what made it."
    call = functools.wraps(base.call)(call)
    body = {"call": call, "__doc__": doc, "__module__": __name__, "keras_class": base}
    cls = type(name, (base,), body)
    keras.saving.register_keras_serializable("keras_micronets", name)(cls)
    cls.__name__ = base.__name__  # names of operations stay as they were
    return cls


_ROWS = {
    name: row
    for name, row in OPERATIONS.items()
    if row.rounding or row.values == "moved"
}
MICRO_OPERATIONS = {
    base: _make(base, (_arithmetic if row.rounding else _moving)(base, row))
    for base, row in zip(
        _keras_private.operation_classes(*_ROWS).values(), _ROWS.values(), strict=True
    )
}


def prepare_operations(model: keras.Model) -> bool:
    """Turn the operations of a model's graphs into micro operations, in place.

    Args:
        model: A model. Nested functional models are included; others have no graph.

    Returns:
        Whether an operation changed.
    """
    found = [
        operation
        for inner in _keras_private.flatten_layers(model)
        if _keras_private.is_functional(inner)
        for operation in _keras_private.operations(inner)
        if type(operation) in MICRO_OPERATIONS
    ]
    for operation in found:
        operation.__class__ = MICRO_OPERATIONS[type(operation)]
    return bool(found)
