"""Scale and shift channels as LiteRT does: as part of a kernel, or as a convolution."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_micronets.layers.litert.fake_quant import quantize_kernel
from keras_micronets.layers.litert.integer_operations import Accumulator, round_to_step
from keras_micronets.layers.litert.provenance import (
    integer_operation_of,
    quantizer_of,
    tag,
)

__all__ = ["bounded_scale", "pointwise", "scale_and_shift"]


def pointwise(inputs: Any, kernel: Any) -> Any:
    """Multiply the last axis by a matrix, as a 1 x 1 convolution.

    Args:
        inputs: Tensor `(batch, ..., features)`.
        kernel: Tensor `(1, 1, features, units)`.

    Returns:
        Tensor `(batch, ..., units)`.
    """
    outputs = ops.conv(_as_image(inputs), kernel, 1, "valid", "channels_last")
    return ops.reshape(outputs, (-1, *inputs.shape[1:-1], kernel.shape[-1]))


def _scale_channels(inputs, scale, limit):
    """Multiply each channel by a number, as a depthwise convolution.

    Its kernel has one integer and one scale for each channel, so the numbers are
    represented exactly, and adding an offset is part of the operation.

    Args:
        inputs: Tensor `(batch, ..., channels)`.
        scale: Tensor `(channels,)`.
        limit: Tensor `(channels,)`, the real values of the largest integers: the
            magnitudes of `scale`, or more.
    """
    flat = ops.reshape(scale, (1, 1, 1, -1))
    kernel = quantize_kernel(flat, limit, axis=3, bits=8)
    kernel = ops.reshape(kernel, (1, 1, -1, 1))
    outputs = ops.depthwise_conv(_as_image(inputs), kernel, 1, "valid", "channels_last")
    return ops.reshape(outputs, (-1, *inputs.shape[1:]))


def _as_image(inputs):
    """Bring a tensor to four axes: all but batch and channels become the width."""
    if len(inputs.shape) == 4:
        return inputs
    n = 1
    for size in inputs.shape[1:-1]:
        n *= size
    return ops.reshape(inputs, (-1, 1, n, inputs.shape[-1]))


# A bias has 32 bits. Its step is at least the product of the steps that the smallest
# ranges of an activation and a kernel have.
SMALLEST_BIAS_STEP, LARGEST_BIAS = 6e-10, 2**30


def scale_and_shift(
    layer: keras.Layer, inputs: Any, outputs: Any, scale_and_offset: Callable
) -> Any:
    """Round the outputs of a layer that scales and shifts, as LiteRT does.

    LiteRT merges scale and offset into a preceding kernel; after a rounded tensor it
    computes them as a depthwise convolution. The offset is rounded to an integer of the
    accumulator.

    Args:
        layer: The layer. One that treats the elements of a channel differently, or
            whose channels are not last, is left alone.
        inputs, outputs: Its tensors.
        scale_and_offset: Function of the layer that returns both: numbers, or tensors
            with an element for each channel.

    Returns:
        Tensor of the shape of `outputs`.
    """
    quantizer, operation = quantizer_of(inputs), integer_operation_of(inputs)
    shape = inputs.shape
    unknown = quantizer is None and operation is None
    if unknown or not _by_channel(layer, len(shape)):
        return outputs
    kernel: Any = operation or Accumulator(quantizer, _one)

    def vectors():  # a function without tensors, since the accumulator keeps it
        return [
            ops.broadcast_to(ops.ravel(ops.cast(x, "float32")), shape[-1:])
            for x in scale_and_offset(layer)
        ]

    def factor():
        scale, offset = vectors()
        return bounded_scale(scale, offset, kernel.scale())

    after = kernel.scaled(factor)
    if kernel.inputs.constant:
        outputs = _exported(inputs, vectors(), factor(), after)
    else:
        outputs = _simulated(inputs, outputs, vectors(), factor(), after)
    return tag(outputs, after)


def _one():
    return 1.0


def bounded_scale(scale: Any, offset: Any, step: Any) -> Any:
    """Return scales large enough for 32 bits to hold the offset in the resulting steps.

    Only scales that are almost zero change, by far less than a step of the output.

    Args:
        scale, offset: Tensors `(channels,)`.
        step: Number or tensor `(channels,)`, the step of the values to scale.
    """
    least = ops.maximum(ops.abs(offset) / LARGEST_BIAS, SMALLEST_BIAS_STEP)
    least = ops.divide(least, step)
    signed = ops.where(ops.less(scale, 0.0), ops.negative(least), least)
    return ops.where(ops.less(ops.abs(scale), least), signed, scale)


def _by_channel(layer, rank):
    """Whether a layer treats all of a channel alike, the channels being last."""
    by_last = getattr(layer, "axis", None) in (None, -1, rank - 1, (-1,), (rank - 1,))
    return by_last and not getattr(layer, "invert", False)


def _exported(inputs, scale_and_offset, factor, after):
    """Compute the graph of an export, which the converter makes one operation of."""
    scale, offset = scale_and_offset
    offset = round_to_step(offset, after.scale(), True)
    if quantizer_of(inputs) is None:
        return ops.add(ops.multiply(inputs, factor), offset)
    return ops.add(_scale_channels(inputs, scale, ops.abs(factor)), offset)


def _simulated(inputs, outputs, scale_and_offset, factor, after):
    """Correct Keras's outputs by LiteRT's rounding errors."""
    scale, offset = scale_and_offset
    if quantizer_of(inputs) is not None:  # its kernel has one integer per channel
        integers = ops.round(ops.divide(ops.multiply(scale, 127.0), factor))
        rounded = ops.multiply(factor, ops.divide(integers, 127.0))
        factor = ops.where(ops.equal(factor, scale), scale, rounded)
    more = ops.where(after.is_on(), ops.subtract(factor, scale), 0.0)
    rounded = round_to_step(offset, after.scale(), after.is_on())
    change = ops.multiply(ops.cast(inputs, "float32"), more)
    change = ops.add(change, ops.subtract(rounded, offset))
    return ops.add(outputs, ops.cast(change, outputs.dtype))
