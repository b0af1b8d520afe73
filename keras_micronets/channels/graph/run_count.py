"""Count the multiply-accumulates of operations without a channel rule by a run."""

from collections.abc import Callable
from math import prod
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_micronets import _keras_private
from keras_micronets.layers.litert.capabilities import plain_operation

__all__ = ["count_by_run"]

UNKNOWN_LENGTH = 1


def count_by_run(call: Any) -> int | None:
    """Return the multiply-accumulates of one call of an operation, for one sample.

    The operation is run on zeros, and the products of `keras.ops` that it calls are
    counted: of matrices, of `einsum` and of kernels. A recurrent layer costs what one
    step of its cell does, times its steps; a `TimeDistributed` layer is counted alike.

    Args:
        call: A call from `_keras_private.graph_calls`.

    Returns:
        An integer; `None` if the operation cannot be run.
    """
    layer = plain_operation(call.operation)
    try:
        return _count_layer(layer, call)
    except Exception:  # custom code and backends raise errors of any class
        return None


def _count_layer(layer, call):
    if isinstance(layer, keras.layers.Bidirectional):
        directions = layer.forward_layer, layer.backward_layer
        return sum(_count_layer(one, call) for one in directions)
    if isinstance(layer, keras.layers.RNN):
        steps, step = _one_step(call)
        state = layer.cell.get_initial_state(batch_size=1)
        return steps * _count(layer.cell, step, state)
    if isinstance(layer, keras.layers.TimeDistributed):
        steps, step = _one_step(call)
        return steps * _count(layer.layer, step)
    args, kwargs = keras.tree.map_structure(_zeros, (call.args, call.kwargs))
    return _count(layer, *args, **kwargs)


def _one_step(call):
    """Return the number of steps of a call's input, and zeros for one of them."""
    _, steps, *rest = _shape(call.args[0])
    return steps, ops.zeros((1, *rest), call.args[0].dtype)


def _count(layer, *args, **kwargs):
    counted = []
    with _keras_private.backend_functions(_counting(counted)):
        layer(*args, **kwargs)
    return sum(counted)


def _shape(tensor):
    return [length or UNKNOWN_LENGTH for length in tensor.shape]


def _zeros(x):
    if not isinstance(x, keras.KerasTensor):
        return x
    return ops.zeros((1, *_shape(x)[1:]), x.dtype)


def _counting(counted: list[int]) -> dict[str, Callable]:
    """Return the backend's functions, such that each notes what it multiplies.

    Functions that call each other are counted once.
    """
    inside = []

    def noting(name, products):
        original = _keras_private.backend_function(name)

        def function(*args, **kwargs):
            inside.append(name)
            try:
                outputs = original(*args, **kwargs)
            finally:
                inside.pop()
            if not inside:
                counted.append(products(outputs, *args, **kwargs))
            return outputs

        return function

    return {name: noting(name, products) for name, products in _PRODUCTS.items()}


def _of_matrices(outputs, x1, x2):
    return prod(outputs.shape) * x1.shape[-1]


def _of_einsum(outputs, subscripts, *operands, **kwargs):
    letters = subscripts.replace(" ", "").partition("->")[0].split(",")
    sizes = {}
    for names, operand in zip(letters, operands, strict=True):
        shape = operand.shape
        if "..." in names:  # the letters of an ellipsis are counted from the last
            before, after = names.split("...")
            n = len(shape) - len(before) - len(after)
            names = [*before, *(f"...{n - i}" for i in range(n)), *after]
        sizes |= dict(zip(names, shape, strict=True))
    return prod(sizes.values()) if len(operands) > 1 else 0


def _of_tensordot(outputs, x1, x2, axes=2):
    if isinstance(axes, int):
        summed = x1.shape[len(x1.shape) - axes :]
    else:
        summed = [x1.shape[axis] for axis in np.atleast_1d(axes[0])]
    return prod(outputs.shape) * prod(summed)


def _of_kernel(outputs, inputs, kernel, *args, **kwargs):
    return prod(outputs.shape) // kernel.shape[-1] * prod(kernel.shape)


def _of_depthwise(outputs, inputs, kernel, *args, **kwargs):
    return prod(outputs.shape) * prod(kernel.shape[:-2])


def _of_separable(outputs, inputs, depthwise, pointwise, *args, **kwargs):
    positions = prod(outputs.shape) // pointwise.shape[-1]
    return positions * (prod(depthwise.shape) + prod(pointwise.shape))


def _of_transposed(outputs, inputs, kernel, *args, **kwargs):
    return prod(inputs.shape) // kernel.shape[-1] * prod(kernel.shape)


def _of_attention(outputs, query, key, *args, **kwargs):
    return 2 * prod(query.shape) * key.shape[1]


_PRODUCTS: dict[str, Callable] = {
    "matmul": _of_matrices,
    "dot": _of_matrices,
    "einsum": _of_einsum,
    "tensordot": _of_tensordot,
    "conv": _of_kernel,
    "depthwise_conv": _of_depthwise,
    "separable_conv": _of_separable,
    "conv_transpose": _of_transposed,
    "dot_product_attention": _of_attention,
}
