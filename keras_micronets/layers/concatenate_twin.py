import keras

from keras_micronets.layers.device.source import grid_of, mark
from keras_micronets.layers.twin import Twin


@keras.saving.register_keras_serializable("keras_micronets", "MicroConcatenate")
class MicroConcatenate(Twin, keras.layers.Concatenate):
    """A `Concatenate` layer that joins integers of one range, as the device does.

    What it reads has a joint range (`JointRange`), and its outputs keep the integers.
    With `"output"` among the quantisers it has a range of its own instead.
    """

    def call(self, inputs):
        rounded = [self.fake_quantize(f"input_{i}", x) for i, x in enumerate(inputs)]
        grid = _one_grid(rounded)
        if grid is not None and grid.frozen:
            rounded = list(map(_rounded_once, inputs, rounded))
            return grid(super().call(rounded))
        outputs = mark(super().call(rounded), grid)
        return self.fake_quantize("output", outputs)


def _one_grid(tensors):
    """Return one of the quantisers behind tensors that have one range, or `None`."""
    grids = [grid_of(tensor) for tensor in tensors]
    ranges = {grid and (grid.joint or grid) for grid in grids}
    return grids[0] if len(ranges) == 1 else None


def _rounded_once(inputs, rounded):
    """The converter itself gives what has another range that of the outputs.

    It takes the first of two quantisers in a row, and then finds unlike ranges.
    """
    return rounded if grid_of(inputs) is None else inputs


# As the other twins: each class loads the other's weight files.
MicroConcatenate.__name__ = "Concatenate"
