"""Keep operations in float, while a file is made, that preparation announced so.

The converter computes each operation in integers that has a kernel for them and reads
rounded tensors, such as the mean within a layer normalisation. It then rounds where
Keras does not. Rounded tensors therefore pass an operation that the converter leaves in
float, and which the export removes from the file.
"""

from typing import Any

import keras

from keras_micronets.layers.litert.provenance import quantizer_of

__all__ = ["FLOAT_SCOPE", "kept_in_float"]

# In the names of the operations to remove, which compute a ceiling.
FLOAT_SCOPE = "keras_micronets_in_float"


def kept_in_float(inputs: Any) -> Any:
    """Return tensors whose readers stay in float: in an export, of rounded tensors.

    Args:
        inputs: Tensors in any structure. Those that no quantiser rounded are returned
            as they are, and so are all outside of an export.
    """
    return keras.tree.map_structure(_in_float, inputs)


def _in_float(tensor):
    quantizer = quantizer_of(tensor)
    if quantizer is None or not quantizer.constant:
        return tensor
    import tensorflow as tf

    with tf.name_scope(FLOAT_SCOPE):
        return tf.math.ceil(tensor)
