"""Operations that stand in a graph without a layer, as layers with fake quantisers."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_micronets import _keras_private
from keras_micronets._serialization import serializable
from keras_micronets.layers.graph import begin_call
from keras_micronets.layers.litert.capabilities import (
    activation_of,
    activation_row,
    limit_of,
    row_of,
)
from keras_micronets.layers.litert.integer_operations import (
    Rectifier,
    difference_of,
    leaky_of,
    matrix_product_of,
    mean_of,
    product_of,
    quotient_of,
    sum_of,
)
from keras_micronets.layers.litert.provenance import (
    integer_operation_of,
    quantizer_of,
    tag,
)
from keras_micronets.layers.micro.activations import join, rectify
from keras_micronets.layers.micro.micro_layer import MICRO_LAYERS, MicroLayer
from keras_micronets.layers.quantizers.scheme import QuantizerSpec
from keras_micronets.layers.quantizers.shared_range import share_ranges

__all__ = ["MicroOperation", "become_micro_operation"]


@serializable()
class MicroOperation(MicroLayer):
    """A layer that computes an operation, and rounds its inputs and result.

    In a model's graph it takes the place of the operation, whose arguments it takes:
    also numbers and arrays, which stay as they are.

    Args:
        operation: The `keras.Operation`, or its configuration.
    """

    kernel_names = ()

    def __init__(self, operation: Any, **kwargs: Any):
        if isinstance(operation, dict):
            operation = keras.saving.deserialize_keras_object(operation)
        super().__init__(**kwargs)
        self.plain_operation = operation
        self.built = True
        self.extend(QuantizerSpec())

    def __call__(self, *args: Any, training: bool | None = None, **kwargs: Any) -> Any:
        share_ranges(begin_call(self))
        # A layer would convert arrays to tensors, and take tensors only.
        return keras.Operation.__call__(self, *args, **kwargs)

    def symbolic_call(self, *args: Any, **kwargs: Any) -> Any:
        return keras.Operation.symbolic_call(self, *args, **kwargs)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        return self.plain_operation.compute_output_spec(*args, **kwargs)

    def call(self, *args: Any, **kwargs: Any) -> Any:
        row, operation = row_of(self), self.plain_operation
        if row.values == "joined":
            return self._join(args, kwargs)
        args, kwargs = self._quantize_tensors((args, kwargs))
        if row.values in ("moved", "averaged"):
            return self._keep_scale(args, kwargs)
        if limit_of(self) is not None:
            return rectify(self, args[0])
        if activation_row(activation_of(self)).rounding is not None:
            return self.activate(args[0], activation_of(self))
        rounding = row.rounding or ""
        compute: Callable = _EQUIVALENTS.get(rounding) or operation.call
        outputs = compute(*args, **kwargs)
        if rounding:
            tag(outputs, _INTEGER_OPERATIONS[rounding](operation, *args))
        return self.fake_quantize("output", outputs)

    def _join(self, args, kwargs):
        def compute(tensors, quantizer):
            args_, kwargs_ = _with_tensors((args, kwargs), tensors)
            if quantizer is not None:  # constants too have its integers
                dtype = tensors[-1].dtype
                args_ = keras.tree.map_structure(
                    lambda x: x if ops.is_tensor(x) else quantizer(ops.array(x, dtype)),
                    args_,
                )
            return self.plain_operation.call(*args_, **kwargs_)

        return join(self, _tensors((args, kwargs)), compute)

    def _keep_scale(self, args, kwargs):
        x, quantizer, row = args[0], quantizer_of(args[0]), row_of(self)
        outputs = self.plain_operation.call(*args, **kwargs)
        if quantizer is not None:
            if row.values == "averaged":
                return tag(quantizer.average(outputs), quantizer)
            # The converter loses the scale of one result that two operations read.
            if row.rounding == "clip" or (quantizer.constant and not row.pools):
                return keras.tree.map_structure(quantizer, outputs)
        operation = integer_operation_of(x)
        origin = operation if operation and operation.by_value else quantizer
        for output in keras.tree.flatten(outputs):
            tag(output, origin)
        return outputs

    def _quantize_tensors(self, arguments):
        return _with_tensors(arguments, self.quantize_inputs(_tensors(arguments)))

    def get_config(self) -> dict[str, Any]:
        operation = keras.saving.serialize_keras_object(self.plain_operation)
        config = {"name": self.name, "dtype": self.dtype_policy.name}
        return {**config, "operation": operation, **self.state_config()}


def _tensors(arguments):
    return [x for x in keras.tree.flatten(arguments) if ops.is_tensor(x)]


def _with_tensors(arguments, tensors):
    """Return arguments with other tensors in the place of theirs."""
    others = iter(tensors)
    return keras.tree.map_structure(
        lambda x: next(others) if ops.is_tensor(x) else x, arguments
    )


def _mean(operation, x):
    axes = range(len(x.shape)) if operation.axis is None else operation.axis
    axes = [axes] if isinstance(axes, int) else axes
    return mean_of(x, [axis % len(x.shape) for axis in axes])


# The integer operation of an operation and its arguments, by the row's `rounding`.
_INTEGER_OPERATIONS: dict[str, Callable] = {
    "sum": lambda _, x1, x2: sum_of(x1, x2),
    "difference": lambda _, x1, x2: difference_of(x1, x2),
    "product": lambda _, x1, x2: product_of(x1, x2),
    "quotient": lambda _, x1, x2: quotient_of(x1, x2),
    "negated": lambda _, x: product_of(x, -1.0),
    "square": lambda _, x, *__: product_of(x, x),
    "products": lambda _, x1, x2: matrix_product_of(x1, x2),
    "absolute": lambda _, x: quantizer_of(x) and Rectifier(quantizer_of(x)),
    "mean": _mean,
    "leaky": lambda operation, x: leaky_of(x, operation.negative_slope),
}
# LiteRT has integer multiplications, but neither negation nor squares.
_EQUIVALENTS: dict[str, Callable] = {
    "negated": lambda x: ops.multiply(x, -1.0),
    "square": lambda x, *_: ops.multiply(x, x),
}

# Operations that files of version 0.1 have, each as a class.
_EARLIER = (
    *("Add", "Subtract", "Multiply", "Divide", "TrueDivide", "ExpandDims", "GetItem"),
    *("Moveaxis", "Ravel", "Reshape", "Split", "Squeeze", "Swapaxes", "Transpose"),
)


def become_micro_operation(operation: keras.Operation) -> None:
    """Turn an operation of a graph into a `MicroOperation`, in place."""
    plain = type(operation).from_config(operation.get_config())
    layer = MicroOperation(plain, name=operation.name)
    _keras_private.become_layer(operation, layer)


MICRO_LAYERS[keras.Operation] = MicroOperation


def _add_earlier_class(base):
    """Let Keras load an operation of a file of an earlier version."""

    def from_config(config):
        plain = base.from_config(config)
        return MicroOperation(plain, name=plain.name)

    name = f"Micro{base.__name__}Operation"
    body = {"from_config": staticmethod(from_config)}
    serializable(name)(type(name, (MicroOperation,), body))


for _class in _keras_private.operation_classes(*_EARLIER).values():
    _add_earlier_class(_class)
