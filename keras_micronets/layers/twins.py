from keras_micronets.layers.activation_twins import ACTIVATION_TWINS
from keras_micronets.layers.affine_twins import AFFINE_TWINS
from keras_micronets.layers.kernel_twins import KERNEL_TWINS
from keras_micronets.layers.operation_twins import OPERATION_TWINS

TWINS = {**KERNEL_TWINS, **ACTIVATION_TWINS, **AFFINE_TWINS}
_PLAIN = {twin: base for base, twin in {**TWINS, **OPERATION_TWINS}.items()}


def plain_class(layer) -> type:
    """Return the Keras class of a layer or operation, promoted or not."""
    return _PLAIN.get(type(layer), type(layer))


def is_twin(layer) -> bool:
    """Return whether a layer is a twin already."""
    return type(layer) is not plain_class(layer) and has_twin(layer)


def has_twin(layer) -> bool:
    """Return whether a layer is a twin or can become one."""
    return plain_class(layer) in TWINS


def is_kernel_layer(layer) -> bool:
    """Return whether a layer has kernels that a mask can be put on."""
    return plain_class(layer) in KERNEL_TWINS
