"""Twins of the Keras layers that scale and shift each channel."""

import keras
from keras import ops

from keras_micronets.layers.activation_twins import make_twin
from keras_micronets.layers.device import scale_channels
from keras_micronets.layers.exact import Sums
from keras_micronets.layers.source import grid_of, mark, round_to_step, sums_of


def _batch_normalization(layer):
    variance = ops.add(layer.moving_variance, layer.epsilon)
    scale = ops.rsqrt(ops.cast(variance, "float32"))
    if layer.scale:
        scale = ops.multiply(scale, layer.gamma)
    offset = ops.negative(ops.multiply(layer.moving_mean, scale))
    return scale, ops.add(offset, layer.beta) if layer.center else offset


def _normalization(layer):
    deviation = ops.sqrt(ops.cast(layer.variance, "float32"))
    scale = ops.divide(1.0, ops.maximum(deviation, keras.backend.epsilon()))
    return scale, ops.negative(ops.multiply(layer.mean, scale))


def _rescaling(layer):
    return layer.scale, layer.offset


_SCALES_AND_OFFSETS = {
    keras.layers.BatchNormalization: _batch_normalization,
    keras.layers.Normalization: _normalization,
    keras.layers.Rescaling: _rescaling,
}


def _make(base):
    doc = f"""A `{base.__name__}` layer with fake quantisers on inputs and output.

    On the device it is part of the kernel before it, or one depthwise convolution.
    While it does not train, its offset is rounded to the integers added there.
    """

    def call(self, inputs, *args, **kwargs):
        outputs = base.call(self, inputs, *args, **kwargs)
        trains = kwargs.get("training") and self.trainable
        if not trains and _by_channel(self, inputs):
            outputs = _on_device(self, inputs, outputs, _SCALES_AND_OFFSETS[base])
        return self.fake_quantize("output", outputs)

    return make_twin(base, call, doc)


def _by_channel(layer, inputs):
    """Whether a layer treats all of a channel alike, the channels being last."""
    last = len(inputs.shape) - 1
    by_last = getattr(layer, "axis", None) in (None, -1, last, (-1,), (last,))
    return by_last and not getattr(layer, "invert", False)


def _on_device(layer, inputs, outputs, scale_and_offset):
    """Round the offset; in a file, scale a rounded tensor by a convolution."""

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
    rounded = round_to_step(offset, after.step(), after.is_on())
    if grid is not None and grid.frozen:
        return ops.add(scale_channels(inputs, scale), rounded)
    change = ops.cast(ops.subtract(rounded, offset), outputs.dtype)
    return mark(ops.add(outputs, change), after)


AFFINE_TWINS = {base: _make(base) for base in _SCALES_AND_OFFSETS}
