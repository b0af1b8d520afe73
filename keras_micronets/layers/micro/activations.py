"""MicroLayers of the Keras layers without kernels, for their fake quantisers."""

import functools
import math
import weakref

import keras
from keras import ops

from keras_micronets.layers.litert.arithmetic import (
    Leaked,
    Means,
    Rescaled,
    Terms,
    rectified,
)
from keras_micronets.layers.litert.provenance import grid_of, mark, sums_of
from keras_micronets.layers.micro.micro_layer import MicroLayer, products


@keras.saving.register_keras_serializable("keras_micronets", "MicroConcatenate")
class MicroConcatenate(MicroLayer, keras.layers.Concatenate):
    """A `Concatenate` layer that joins integers of one range, as the device does.

    What it reads has a joint range (`SharedRange`), and its outputs keep the integers.
    With `"output"` among the quantisers it has a range of its own instead.
    """

    def call(self, inputs):
        rounded = [self.fake_quantize(f"input_{i}", x) for i, x in enumerate(inputs)]
        grid = _one_grid(rounded)
        if grid is not None and grid.constant:
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


# Their outputs have the scale of their input on the device: they need a twin
# only to quantise what they read.
MOVING = (
    keras.layers.Cropping1D,
    keras.layers.Cropping2D,
    keras.layers.Dropout,
    keras.layers.ActivityRegularization,
    keras.layers.AlphaDropout,
    keras.layers.Flatten,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.GlobalMaxPooling1D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.Identity,
    keras.layers.MaxPooling1D,
    keras.layers.MaxPooling2D,
    keras.layers.Permute,
    keras.layers.Reshape,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.ZeroPadding1D,
    keras.layers.ZeroPadding2D,
)
# Likewise, but they compute new values, which are rounded to the same scale.
AVERAGING = (
    keras.layers.AveragePooling1D,
    keras.layers.AveragePooling2D,
    keras.layers.UpSampling2D,
)
PASS_THROUGH = MOVING + AVERAGING

_COMPUTING = (
    keras.layers.Activation,
    keras.layers.Add,
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.LeakyReLU,
    keras.layers.Multiply,
    keras.layers.PReLU,
    keras.layers.ReLU,
    keras.layers.Softmax,
    keras.layers.Subtract,
)


def make_micro_class(base, compute_outputs, doc):
    """Return a registered twin of a Keras layer.

    Args:
        base: The Keras layer's class.
        compute_outputs: Function of the layer, its inputs and the other arguments, that
            computes the outputs.
        doc: Docstring.
    """

    @functools.wraps(base.call)  # Keras reads the names of the arguments
    def call(self, inputs, *args, **kwargs):
        return compute_outputs(self, self.quantize_inputs(inputs), *args, **kwargs)

    name = f"Micro{base.__name__}"
    body = {"call": call, "__doc__": doc, "__module__": __name__}
    cls = type(name, (MicroLayer, base), body)
    keras.saving.register_keras_serializable("keras_micronets", name)(cls)
    cls.__name__ = base.__name__  # as the twins with kernels: weight files agree
    return cls


def _make(base):
    def compute(self, inputs, *args, **kwargs):
        if _is_rectifier(self):
            return _rectify(self, inputs)
        if isinstance(self, keras.layers.Activation):
            return self.activate(inputs, self.activation)
        outputs = base.call(self, inputs, *args, **kwargs)
        return self.fake_quantize("output", mark(outputs, _exact(self, inputs)))

    def move(self, inputs, *args, **kwargs):
        return mark(base.call(self, inputs, *args, **kwargs), grid_of(inputs))

    def average(self, inputs, *args, **kwargs):
        outputs = base.call(self, inputs, *args, **kwargs)
        grid = grid_of(inputs)
        if grid is None:
            return outputs
        upwards = isinstance(self, keras.layers.UpSampling2D)
        return mark(grid.average(outputs, upwards=upwards), grid)

    kind = f"A `{base.__name__}` layer with fake quantisers on"
    if base in MOVING:
        return make_micro_class(
            base, move, f"{kind} inputs; outputs keep their integers."
        )
    if base in AVERAGING:
        return make_micro_class(
            base, average, f"{kind} inputs; outputs keep their range."
        )
    return make_micro_class(base, compute, f"{kind} inputs and output.")


def _rectify(layer, inputs):
    grid = grid_of(inputs)
    if grid is not None and layer.quantizers.output and grid.constant is None:
        inputs = mark(ops.relu(inputs), Rescaled(grid))
    return layer.activate(inputs, keras.activations.relu)


def _exact(layer, inputs):
    """Return what the device's integers are before the outputs are rounded."""
    if isinstance(layer, keras.layers.Multiply) and len(inputs) == 2:
        return products(*inputs)
    if isinstance(layer, keras.layers.Add | keras.layers.Subtract):
        return _terms(layer, inputs)
    if isinstance(layer, keras.layers.LeakyReLU):
        grid = grid_of(inputs)
        return None if grid is None else Leaked(grid, layer.negative_slope)
    if isinstance(layer, _MEANS):
        return _means(layer, inputs)
    if isinstance(layer, keras.layers.ReLU):
        return rectified(sums_of(inputs), layer.max_value)
    return None


def _terms(layer, inputs):
    grids = tuple(map(grid_of, inputs))
    if len(inputs) != 2 or None in grids:
        return None
    second = -1 if isinstance(layer, keras.layers.Subtract) else 1
    return Terms(tuple(map(weakref.ref, inputs)), grids, (1, second))


_MEANS = (keras.layers.GlobalAveragePooling1D, keras.layers.GlobalAveragePooling2D)


def _means(layer, inputs):
    first = 1 if layer.data_format == "channels_last" else 2
    sizes = inputs.shape[first : len(inputs.shape) - 2 + first]
    grid = grid_of(inputs)
    return None if grid is None or None in sizes else Means(grid, math.prod(sizes))


def _is_rectifier(layer):
    if isinstance(layer, keras.layers.ReLU):
        kind = (layer.negative_slope, layer.threshold, layer.max_value)
        return kind == (0, 0, None)
    activation = getattr(layer, "activation", None)
    return activation is keras.activations.relu


ACTIVATION_LAYERS = {base: _make(base) for base in (*PASS_THROUGH, *_COMPUTING)}
ACTIVATION_LAYERS[keras.layers.Concatenate] = MicroConcatenate
