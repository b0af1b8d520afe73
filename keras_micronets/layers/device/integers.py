from keras import ops

from keras_micronets.layers.device.exact import Leaked
from keras_micronets.layers.device.source import grid_of, sums_of


def integers_for(quantizer, inputs):
    """Return the integers that a device rounds a tensor to, not clipped.

    Where it has integers already, it rescales those; anything else is divided.

    Args:
        quantizer: The `ActivationQuantizer` whose integers are asked for; zero is 0.
        inputs: Float tensor.
    """
    source, grid = sums_of(inputs), grid_of(inputs)
    values = ops.cast(inputs, "float32")
    if source is None and grid is not None:
        source = Leaked(grid, slope=1.0)  # rescaled as a leaky rectifier does
    if source is None:
        return ops.round(ops.divide(values, quantizer.scale()))
    return source.integers(values, quantizer)
