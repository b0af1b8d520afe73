"""Which layers of a graph LiteRT computes as one operation."""

import keras

from keras_micronets.layers.device.rectifiers import limit_of
from keras_micronets.layers.operation_twins import OPERATION_TWINS
from keras_micronets.layers.twins import has_twin, is_kernel_layer, plain_class

# LiteRT takes one scale for their kernels, which a scale a channel does not fit.
_ONE_SCALE = (keras.layers.EinsumDense, keras.layers.Conv2DTranspose)
_TAKE_RECTIFIERS = (
    keras.layers.Add,
    keras.layers.BatchNormalization,
    keras.layers.Multiply,
    keras.layers.Subtract,
    *OPERATION_TWINS,
)
_ACTIVATIONS = (keras.layers.Activation, keras.layers.LeakyReLU, keras.layers.ReLU)


def is_fused(operation, readers: list, is_output: bool) -> bool:
    """Return whether an operation is computed together with what reads it.

    That is one operation, or several rectifiers that are alike: the converter makes
    one of them.

    Args:
        operation: An operation of a graph.
        readers: List of the operations that read it.
        is_output: Boolean, whether the model puts it out.
    """
    if is_output or not readers:
        return False
    alike = all(map(is_rectifier, readers)) and len(set(map(limit_of, readers))) == 1
    return (len(readers) == 1 or alike) and all(fuses(operation, x) for x in readers)


def fuses(operation, reader) -> bool:
    """Return whether LiteRT computes the reader within the operation before it."""
    before, after = plain_class(operation), plain_class(reader)
    is_kernel = is_kernel_layer(operation) and _is_linear(operation)
    if after is keras.layers.BatchNormalization:
        return is_kernel and before not in _ONE_SCALE
    return is_rectifier(reader) and (is_kernel or before in _TAKE_RECTIFIERS)


def is_rectifier(layer) -> bool:
    """Return whether a layer is a ReLU or ReLU6, which others take along."""
    return has_twin(layer) and limit_of(layer) is not None


def is_kept_apart(operation, producers: dict) -> bool:
    """Return whether a normalisation would be part of a kernel but for an activation.

    Args:
        operation: An operation of a graph.
        producers: Dictionary from operation to `(position, producer)` pairs.
    """
    if plain_class(operation) is not keras.layers.BatchNormalization:
        return False
    _, before = producers[operation][0]
    if plain_class(before) in _ACTIVATIONS:
        return is_kernel_layer(producers[before][0][1])
    return is_kernel_layer(before) and not _is_linear(before)


def _is_linear(layer):
    return getattr(layer, "activation", None) in (None, keras.activations.linear)
