import keras

from keras_micronets.layers.twins import has_twin, plain_class

# Those of which the converter makes integer operations, if what they read and put out
# is quantised (read in files of TensorFlow 2.21).
INTEGER_ACTIVATIONS = (
    None,
    keras.activations.exponential,
    keras.activations.gelu,
    keras.activations.hard_silu,
    keras.activations.hard_tanh,
    keras.activations.leaky_relu,
    keras.activations.linear,
    keras.activations.log_softmax,
    keras.activations.relu,
    keras.activations.relu6,
    keras.activations.sigmoid,
    keras.activations.silu,
    keras.activations.soft_shrink,
    keras.activations.softmax,
    keras.activations.tanh,
    keras.activations.tanh_shrink,
)


def reason_for_float(operation: keras.Operation) -> str | None:
    """Return why a file computes an operation in float; `None` if it does not.

    Args:
        operation: An operation of a functional model, promoted or not.
    """
    if not has_twin(operation):
        return "no quantised twin"
    if plain_class(operation) is keras.layers.ReLU:
        bends = bool(operation.negative_slope or operation.threshold)
        cuts = operation.max_value is not None
        rectifies = operation.max_value == 6 and not bends
        return None if rectifies or not cuts else "LiteRT has no integer kernel for it"
    activation = getattr(operation, "activation", None)
    if activation in INTEGER_ACTIVATIONS:
        return None
    return f"LiteRT has no integer {getattr(activation, '__name__', activation)}"
