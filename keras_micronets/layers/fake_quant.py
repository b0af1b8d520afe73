"""Fake quantisation whose gradients cost little.

TensorFlow's own operations also compute the gradients of the range, and one channel
after the other: more than the rounding itself. Nothing here learns a range by them.
"""

import functools

import keras
from keras import ops


def quantize_kernel(kernel, limit, *, axis: int | None, bits: int):
    """Round a kernel within [-limit, limit]; gradients pass straight through.

    Args:
        kernel: Float tensor.
        limit: The largest magnitude: a tensor of one element, or of one a channel.
        axis: Integer, the axis of the channels, or `None`.
        bits: Integer from 2 to 8.

    Returns:
        Tensor of the kernel's shape and type.
    """
    quantize = functools.partial(
        keras.quantizers.fake_quant_with_min_max_vars,
        min_vals=-limit,
        max_vals=limit,
        num_bits=bits,
        narrow_range=True,
        axis=axis,
    )
    if keras.backend.backend() != "tensorflow":
        return quantize(kernel)
    return ops.custom_gradient(lambda x: (quantize(x), lambda upstream: upstream))(
        kernel
    )


def quantize_rectified(inputs, upper, *, bits: int):
    """Round `relu(inputs)` within [0, upper].

    Args:
        inputs: Float tensor, not rectified yet.
        upper: Tensor of one element, positive.
        bits: Integer from 2 to 8.

    Returns:
        Tensor of the shape and type of `inputs`. Gradients pass where the inputs lie
        between the bounds.
    """
    quantize = functools.partial(
        keras.quantizers.fake_quant_with_min_max_vars,
        min_vals=ops.zeros_like(upper),
        max_vals=upper,
        num_bits=bits,
    )
    if keras.backend.backend() != "tensorflow":
        return quantize(ops.relu(inputs))

    def clipped(x):
        return quantize(x), lambda upstream: _gradient_between(upstream, x, upper)

    return ops.custom_gradient(clipped)(inputs)


def _gradient_between(upstream, inputs, upper):
    """The gradient of a clip to [0, upper], in one pass: that of a scaled ReLU6."""
    import tensorflow as tf

    scaled = inputs * tf.cast(6.0 / upper, inputs.dtype)
    return tf.raw_ops.Relu6Grad(gradients=upstream, features=scaled)
