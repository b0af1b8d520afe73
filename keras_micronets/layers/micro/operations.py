"""Micro operations: arithmetic on tensors that stands in a graph without a layer.

They hold no state, and so no quantisers: their readers have those. They only let their
results remember what made them.
"""

import numbers
import weakref

import keras
import numpy as np

from keras_micronets import _keras_private
from keras_micronets.layers.litert.arithmetic import (
    Constant,
    Multiples,
    Products,
    Terms,
)
from keras_micronets.layers.litert.provenance import grid_of, mark

SMALLEST_CONSTANT = 1e-30  # its scale is a float32


def _make(base, find_source):
    def call(self, x1, x2):
        return mark(base.call(self, x1, x2), find_source(x1, x2))

    name = f"Micro{base.__name__}Operation"
    doc = f"A `{base.__name__}` operation whose result remembers what made it."
    cls = type(name, (base,), {"call": call, "__doc__": doc, "__module__": __name__})
    keras.saving.register_keras_serializable("keras_micronets", name)(cls)
    cls.__name__ = base.__name__  # as the twins of layers: names stay what they were
    return cls


def _sum(x1, x2):
    return _terms(x1, x2, (1, 1))


def _difference(x1, x2):
    return _terms(x1, x2, (1, -1))


def _terms(x1, x2, signs):
    grids = _grid(x1), _grid(x2)
    if None in grids:
        return None
    terms = tuple(
        grid if isinstance(grid, Constant) else weakref.ref(x)
        for x, grid in zip((x1, x2), grids, strict=True)
    )
    return Terms(terms, grids, signs)


def _product(x1, x2):
    grids = _grid(x1), _grid(x2)
    if None in grids:
        return None
    first, second = sorted(grids, key=lambda grid: isinstance(grid, Constant))
    kind = Multiples if isinstance(second, Constant) else Products
    return kind(first, second)


def _quotient(x1, x2):
    """The device multiplies by the inverse of a constant."""
    divisor = _grid(x2)
    if not isinstance(divisor, Constant) or not np.all(divisor.value):
        return None
    return _product(x1, np.float32(1) / divisor.value)


def _grid(x):
    """Return what has the scale of a constant or tensor on the device, or `None`."""
    if not isinstance(x, numbers.Real | np.ndarray):
        return grid_of(x)
    value = np.asarray(x, "float32")
    return Constant(value) if np.any(abs(value) > SMALLEST_CONSTANT) else None


_FIND_SOURCES = {
    "Add": _sum,
    "Subtract": _difference,
    "Multiply": _product,
    "Divide": _quotient,
    "TrueDivide": _quotient,
}
MICRO_OPERATIONS = {
    base: _make(base, _FIND_SOURCES[name])
    for name, base in _keras_private.operation_classes(*_FIND_SOURCES).items()
}


def prepare_operations(model: keras.Model) -> bool:
    """Turn the operations of a model's graphs into their twins, in place.

    Args:
        model: A model; nested functional models are walked, others have no graph.

    Returns:
        Whether there were any that were not twins.
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
