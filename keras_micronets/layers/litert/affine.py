"""Operations as a device computes them, where Keras would write them otherwise."""

from keras import ops

from keras_micronets.layers.litert.accumulator import Sums
from keras_micronets.layers.litert.provenance import (
    grid_of,
    mark,
    round_to_step,
    sums_of,
)
from keras_micronets.layers.quantizers.fake_quant import quantize_kernel


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


# A bias is counted in 32 bits, in steps of no less than what the smallest ranges of
# an activation and a kernel make together.
SMALLEST_BIAS_STEP, LARGEST_BIAS = 6e-10, 2**30


def as_on_device(layer, inputs, outputs, scale_and_offset):
    """Scale and shift as the device does, which adds an offset in integers.

    The device makes scale and offset part of the kernel before them. Behind a tensor
    that has been rounded they are one depthwise convolution.

    Args:
        layer: The layer. One that treats the elements of a channel differently, or
            whose channels are not last, is left alone.
        inputs, outputs: Its tensors.
        scale_and_offset: Function of the layer that returns both: numbers, or tensors
            with an element for each channel.

    Returns:
        Tensor of the shape of `outputs`.
    """
    grid, sums, shape = grid_of(inputs), sums_of(inputs), inputs.shape
    if (grid is None and sums is None) or not _by_channel(layer, len(shape)):
        return outputs
    kernel = sums or Sums(grid, _one)

    def vectors():  # without tensors, for `Sums` keeps it
        return [
            ops.broadcast_to(ops.ravel(ops.cast(x, "float32")), shape[-1:])
            for x in scale_and_offset(layer)
        ]

    def factor():
        return floored(*vectors(), kernel.scale())

    after = kernel.scaled(factor)
    if kernel.inputs.constant:
        outputs = _for_the_file(inputs, vectors(), factor(), after)
    else:
        outputs = _simulated(inputs, outputs, vectors(), factor(), after)
    return mark(outputs, after)


def _one():
    return 1.0


def floored(scale, offset, step):
    """Return scales large enough that 32 bits hold the offset, in steps they make.

    Only of a channel that is all but dead more is left of its sums than there was,
    and that is far less than a step of what is put out.

    Args:
        scale, offset: Tensors `(channels,)`.
        step: Number or tensor `(channels,)`, the step of what is scaled.
    """
    least = ops.maximum(ops.abs(offset) / LARGEST_BIAS, SMALLEST_BIAS_STEP)
    least = ops.divide(least, step)
    signed = ops.where(ops.less(scale, 0.0), ops.negative(least), least)
    return ops.where(ops.less(ops.abs(scale), least), signed, scale)


def _by_channel(layer, rank):
    """Whether a layer treats all of a channel alike, the channels being last."""
    by_last = getattr(layer, "axis", None) in (None, -1, rank - 1, (-1,), (rank - 1,))
    return by_last and not getattr(layer, "invert", False)


def _for_the_file(inputs, scale_and_offset, factor, after):
    """What the converter makes one operation of, with the kernel if there is one."""
    scale, offset = scale_and_offset
    offset = round_to_step(offset, after.scale(), True)
    if grid_of(inputs) is None:
        return ops.add(ops.multiply(inputs, factor), offset)
    return ops.add(scale_channels(inputs, scale, ops.abs(factor)), offset)


def _simulated(inputs, outputs, scale_and_offset, factor, after):
    """Correct what Keras puts out by what is different on the device."""
    scale, offset = scale_and_offset
    if grid_of(inputs) is not None:  # its kernel has one integer a channel
        integers = ops.round(ops.divide(ops.multiply(scale, 127.0), factor))
        rounded = ops.multiply(factor, ops.divide(integers, 127.0))
        factor = ops.where(ops.equal(factor, scale), scale, rounded)
    more = ops.where(after.is_on(), ops.subtract(factor, scale), 0.0)
    rounded = round_to_step(offset, after.scale(), after.is_on())
    change = ops.multiply(ops.cast(inputs, "float32"), more)
    change = ops.add(change, ops.subtract(rounded, offset))
    return ops.add(outputs, ops.cast(change, outputs.dtype))
