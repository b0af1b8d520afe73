"""Twins of the operations that arithmetic on tensors puts in a graph without a layer.

They hold no state, and so no quantisers: their readers have those. They only let their
results remember what made them.
"""

import numbers
import weakref

import keras

from keras_micronets import _keras_private
from keras_micronets.layers.constant import Constant
from keras_micronets.layers.exact import Products, Terms
from keras_micronets.layers.source import grid_of, mark


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
    return None if None in grids else Products(*grids)


def _quotient(x1, x2):
    grid, divisor = grid_of(x1), _grid(x2)
    known = grid is not None and isinstance(divisor, Constant)
    return Products(grid, divisor.inverse()) if known else None


def _grid(x):
    """Return what has the scale of a number or tensor on the device, or `None`."""
    if isinstance(x, numbers.Real):
        return Constant(float(x)) if x else None
    return grid_of(x)


_SOURCES = {
    "Add": _sum,
    "Subtract": _difference,
    "Multiply": _product,
    "Divide": _quotient,
    "TrueDivide": _quotient,
}
OPERATION_TWINS = {
    base: _make(base, _SOURCES[name])
    for name, base in _keras_private.operation_classes(*_SOURCES).items()
}


def promote_operations(model: keras.Model) -> bool:
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
        if type(operation) in OPERATION_TWINS
    ]
    for operation in found:
        operation.__class__ = OPERATION_TWINS[type(operation)]
    return bool(found)
