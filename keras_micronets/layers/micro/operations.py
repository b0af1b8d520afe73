"""Tag the results of arithmetic that stands in a graph without a layer.

Such operations hold no state, and so no quantisers: the layers that read them do.
"""

import keras

from keras_micronets import _keras_private
from keras_micronets.layers.litert.capabilities import OPERATIONS
from keras_micronets.layers.litert.integer_operations import (
    difference_of,
    product_of,
    quotient_of,
    sum_of,
)
from keras_micronets.layers.litert.provenance import tag

__all__ = ["MICRO_OPERATIONS", "prepare_operations"]

_FUNCTIONS = {
    "sum": sum_of,
    "difference": difference_of,
    "product": product_of,
    "quotient": quotient_of,
}


def _make(base, function):
    def call(self, x1, x2):
        return tag(base.call(self, x1, x2), function(x1, x2))

    name = f"Micro{base.__name__}Operation"
    doc = f"A `{base.__name__}` operation whose result remembers what made it."
    body = {"call": call, "__doc__": doc, "__module__": __name__, "keras_class": base}
    cls = type(name, (base,), body)
    keras.saving.register_keras_serializable("keras_micronets", name)(cls)
    cls.__name__ = base.__name__  # names of operations stay as they were
    return cls


_ROUNDING = {name: row.rounding for name, row in OPERATIONS.items() if row.rounding}
MICRO_OPERATIONS = {
    base: _make(base, _FUNCTIONS[_ROUNDING[name]])
    for name, base in _keras_private.operation_classes(*_ROUNDING).items()
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
