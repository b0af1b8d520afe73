"""What a device makes of layers that scale and shift each channel."""

from keras import ops

from keras_micronets.layers.device import scale_channels
from keras_micronets.layers.exact import Sums
from keras_micronets.layers.source import grid_of, mark, round_to_step, sums_of


def as_on_device(layer, inputs, outputs, scale_and_offset):
    """Round a layer's offset to the integers that the device adds there.

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
    if not _by_channel(layer, inputs):
        return outputs

    def vectors():
        return [
            ops.broadcast_to(ops.ravel(ops.cast(x, "float32")), inputs.shape[-1:])
            for x in scale_and_offset(layer)
        ]

    grid, sums = grid_of(inputs), sums_of(inputs)
    if grid is not None:
        after = Sums(grid, lambda: ops.abs(vectors()[0]))
    elif sums is not None:
        after = sums.scaled(lambda: vectors()[0])
    else:
        return outputs
    scale, offset = vectors()
    rounded = round_to_step(offset, after.scale(), after.is_on())
    if grid is not None and grid.frozen:
        return ops.add(scale_channels(inputs, scale), rounded)
    change = ops.cast(ops.subtract(rounded, offset), outputs.dtype)
    return mark(ops.add(outputs, change), after)


def _by_channel(layer, inputs):
    """Whether a layer treats all of a channel alike, the channels being last."""
    last = len(inputs.shape) - 1
    by_last = getattr(layer, "axis", None) in (None, -1, last, (-1,), (last,))
    return by_last and not getattr(layer, "invert", False)
