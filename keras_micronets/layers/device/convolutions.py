"""Operations as a device computes them, where Keras would write them otherwise."""

from keras import ops

from keras_micronets.layers.fake_quant import quantize_kernel


def pointwise(inputs, kernel):
    """Multiply the last axis by a matrix, as a 1 x 1 convolution.

    Args:
        inputs: Tensor `(batch, ..., features)`.
        kernel: Tensor `(1, 1, features, units)`.

    Returns:
        Tensor `(batch, ..., units)`.
    """
    outputs = ops.conv(_flat(inputs), kernel, 1, "valid", "channels_last")
    return ops.reshape(outputs, (-1, *inputs.shape[1:-1], kernel.shape[-1]))


def scale_channels(inputs, scale, limit):
    """Multiply each channel by a number, as a depthwise convolution.

    Its kernel has one integer a channel and a scale for each, so that nothing of the
    numbers is lost, and the sum with an offset is one operation.

    Args:
        inputs: Tensor `(batch, ..., channels)`.
        scale: Tensor `(channels,)`.
        limit: Tensor `(channels,)`, the numbers that the largest integers stand for:
            the magnitudes of `scale`, or more.

    Returns:
        Tensor of the shape of `inputs`.
    """
    flat = ops.reshape(scale, (1, 1, 1, -1))
    kernel = quantize_kernel(flat, limit, axis=3, bits=8)
    kernel = ops.reshape(kernel, (1, 1, -1, 1))
    outputs = ops.depthwise_conv(_flat(inputs), kernel, 1, "valid", "channels_last")
    return ops.reshape(outputs, (-1, *inputs.shape[1:]))


def _flat(inputs):
    """Bring a tensor to four axes: all but batch and channels become the width."""
    if len(inputs.shape) == 4:
        return inputs
    n = 1
    for size in inputs.shape[1:-1]:
        n *= size
    return ops.reshape(inputs, (-1, 1, n, inputs.shape[-1]))
