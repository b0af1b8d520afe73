from keras_micronets.layers.micro.activations import ACTIVATION_LAYERS
from keras_micronets.layers.micro.kernel_layers import KERNEL_LAYERS
from keras_micronets.layers.micro.normalization import NORMALIZATION_LAYERS
from keras_micronets.layers.micro.operations import MICRO_OPERATIONS

MICRO_LAYERS = {**KERNEL_LAYERS, **ACTIVATION_LAYERS, **NORMALIZATION_LAYERS}
_PLAIN = {twin: base for base, twin in {**MICRO_LAYERS, **MICRO_OPERATIONS}.items()}


def plain_class(layer) -> type:
    """Return the Keras class of a layer or operation, prepared or not."""
    return _PLAIN.get(type(layer), type(layer))


def is_micro_layer(layer) -> bool:
    """Return whether a layer is a twin already."""
    return type(layer) is not plain_class(layer) and has_micro_layer(layer)


def has_micro_layer(layer) -> bool:
    """Return whether a layer is a twin or can become one."""
    return plain_class(layer) in MICRO_LAYERS


def is_kernel_layer(layer) -> bool:
    """Return whether a layer has kernels that a mask can be put on."""
    return plain_class(layer) in KERNEL_LAYERS
