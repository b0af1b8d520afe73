import keras

from keras_micronets import _keras_private
from keras_micronets.layers.operation_twins import OPERATION_TWINS
from keras_micronets.layers.twins import has_twin, plain_class

# Besides arithmetic, classes of `keras.ops` that LiteRT has in integers (2.3, each
# tried). Its division of two tensors is left out: near zero it is far off.
_IN_INTEGERS = (
    "Absolute",
    "Exp",
    "ExpandDims",
    "Gelu",
    "HardSilu",
    "LeakyRelu",
    "Log",
    "Mean",
    "Relu",
    "Relu6",
    "Reshape",
    "Rsqrt",
    "Sigmoid",
    "Silu",
    "Softmax",
    "Sqrt",
    "Squeeze",
    "Sum",
    "Tanh",
    "Transpose",
)


def is_in_integers(operation, producers, readers, *, is_raw=True) -> bool:
    """Return whether a file has integers for an operation that has no layer.

    It has if all that the operation reads is rounded, and all that reads it rounds it.

    Args:
        operation: A `keras.Operation`, no layer.
        producers: List of the operations that make what it reads.
        readers: List of the operations that read it; empty if it is an output.
        is_raw: Boolean, whether nobody rounds what its graph reads, as an outer model
            does for an inner one. Defaults to `True`.
    """
    inner = [
        x for x in producers if is_raw or not isinstance(x, keras.layers.InputLayer)
    ]
    rounded = all(map(_rounds, inner)) and all(map(has_twin, readers))
    return bool(readers) and rounded and _has_integers(operation)


def _rounds(producer):
    if _keras_private.is_functional(producer):
        return all(map(_rounds, _keras_private.output_operations(producer)))
    return has_twin(producer)


def _has_integers(operation):
    kind = plain_class(operation)
    if kind not in OPERATION_TWINS:
        return kind.__module__.startswith("keras.") and kind.__name__ in _IN_INTEGERS
    return "Divide" not in kind.__name__ or not any(
        isinstance(divisor, keras.KerasTensor)
        for _, divisor in _keras_private.arguments(operation)
    )
