"""Micro layers of the Keras layers without kernels, made from LiteRT's table."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from keras_micronets.layers.litert.capabilities import (
    LAYERS,
    activation_of,
    limit_of,
    reason_for_float,
    row_of,
)
from keras_micronets.layers.litert.float_islands import kept_in_float
from keras_micronets.layers.litert.integer_operations import (
    Rectifier,
    difference_of,
    leaky_of,
    mean_of,
    product_of,
    sum_of,
)
from keras_micronets.layers.litert.provenance import quantizer_of, tag, tag_moved
from keras_micronets.layers.micro.micro_layer import (
    MicroLayer,
    make_micro_class,
    micro_class,
)

__all__ = ["ACTIVATION_LAYERS", "join", "rectify"]


def join(layer: MicroLayer, tensors: Sequence, compute: Callable) -> Any:
    """Return what a layer computes of tensors that are rounded within one range.

    Args:
        layer: The micro layer.
        tensors: Sequence of its inputs. Those that are not floats stay as they are.
        compute: Function of the list of rounded tensors and of their quantiser, `None`
            if they do not have the same.
    """
    rounded = [
        layer.fake_quantize(f"input_{i}", x) if _is_float(x) else x
        for i, x in enumerate(tensors)
    ]
    quantizer = _common_quantizer(filter(_is_float, rounded))
    if quantizer is not None and quantizer.constant:
        rounded = list(map(_rounded_once, tensors, rounded))
        return quantizer(compute(rounded, quantizer))
    outputs = tag(compute(rounded, quantizer), quantizer)
    return layer.fake_quantize("output", outputs)


def _is_float(tensor):
    return keras.backend.is_float_dtype(keras.backend.standardize_dtype(tensor.dtype))


class _Joining(MicroLayer):
    def call(self, inputs):
        parent: Any = super()
        return join(self, inputs, lambda tensors, _: parent.call(tensors))


@micro_class(keras.layers.Concatenate)
class MicroConcatenate(_Joining, keras.layers.Concatenate):
    """A `Concatenate` layer that joins integers of one range, as LiteRT does.

    Its inputs share a range (`SharedRange`), and its outputs keep the integers. With
    `"output"` among the quantisers it has a range of its own instead.
    """


class _JoiningPairs(_Joining):
    def call(self, inputs):
        parent: Any = super(_Joining, self)

        def compute(tensors, quantizer):
            result, *others = tensors
            for number, tensor in enumerate(others, 1):
                result = parent.call([result, tensor])
                if quantizer is not None and number < len(others):
                    result = quantizer(result)  # the file has each pair in its range
            return result

        return join(self, inputs, compute)


@micro_class(keras.layers.Maximum)
class MicroMaximum(_JoiningPairs, keras.layers.Maximum):
    """A `Maximum` layer among integers of one range, see `MicroConcatenate`."""


@micro_class(keras.layers.Minimum)
class MicroMinimum(_JoiningPairs, keras.layers.Minimum):
    """A `Minimum` layer among integers of one range, see `MicroConcatenate`."""


def _common_quantizer(tensors):
    """Return a quantiser of tensors with one range, `None` if they have several."""
    quantizers = [quantizer_of(tensor) for tensor in tensors]
    ranges = {one and (one.shared_range or one) for one in quantizers}
    return quantizers[0] if len(ranges) == 1 else None


def _rounded_once(inputs, rounded):
    """Leave out the second of two quantisers in a row.

    The converter gives such inputs the range of the outputs itself. It would take the
    first of two quantisers, and then find ranges that differ.
    """
    return rounded if quantizer_of(inputs) is None else inputs


def _make(base, row):
    def compute(self, inputs, *args, **kwargs):
        if limit_of(self) is not None:
            return rectify(self, inputs)
        if isinstance(self, keras.layers.Activation):
            return self.activate(inputs, self.activation)
        if row.rounding == "average":
            return _average(self, inputs)
        in_float = reason_for_float(self) or kwargs.get("mask") is not None
        if in_float:
            inputs = kept_in_float(inputs)
        if self.quantizers.partials:
            inputs = _merged(self, inputs)
        outputs = base.call(self, inputs, *args, **kwargs)
        if row.rounding is not None and not in_float:
            tag(outputs, _OPERATIONS[row.rounding](self, inputs))
        return self.fake_quantize("output", outputs)

    def move(self, inputs, *args, **kwargs):
        outputs = base.call(self, inputs, *args, **kwargs)
        keep = tag if row.pools else tag_moved
        return keep(outputs, quantizer_of(inputs))

    def average(self, inputs, *args, **kwargs):
        outputs = base.call(self, inputs, *args, **kwargs)
        quantizer = quantizer_of(inputs)
        if quantizer is None:
            return outputs
        upwards = row.rounding == "up"
        return tag(quantizer.average(outputs, upwards=upwards), quantizer)

    function, outputs = {
        "computed": (compute, " and output."),
        "moved": (move, "; outputs keep their integers."),
        "averaged": (average, "; outputs keep their range."),
    }[row.values]
    doc = f"A `{base.__name__}` layer with fake quantisers on inputs{outputs}"
    return make_micro_class(base, function, doc)


def _merged(layer, inputs):
    """Return two tensors to merge: the rounded result of all but the last, and it."""
    operation = _OPERATIONS[row_of(layer).rounding or ""]

    def merge(*two):
        return tag(layer.keras_class.call(layer, [*two]), operation(layer, [*two]))

    *first, last = inputs
    return [_fold(layer, first, merge), last]


def _average(layer, inputs):
    """Add all, then multiply, as the converter does."""
    share = 1 / len(inputs)
    total = _fold(layer, inputs, lambda *two: tag(ops.add(*two), sum_of(*two)))
    mean = tag(ops.multiply(total, share), product_of(total, share))
    return layer.fake_quantize("output", mean)


def _fold(layer, tensors, merge):
    """Merge tensors two at a time, and round each partial result."""
    result, *others = tensors
    for number, tensor in enumerate(others, 1):
        result = layer.fake_quantize(f"partial_{number}", merge(result, tensor))
    return result


def rectify(layer: MicroLayer, inputs: Any) -> Any:
    """Return the rectified and rounded inputs of a layer."""
    quantizer, output = quantizer_of(inputs), layer.quantizer("output")
    activation, limit = activation_of(layer), limit_of(layer)
    if quantizer is not None and output is not None:
        if layer.quantizers.after_pooling:  # the converter does not merge this one
            limited = inputs if limit == math.inf else ops.minimum(inputs, limit)
            return output(tag(ops.leaky_relu(limited, 0.0), Rectifier(quantizer)))
        if quantizer.constant is None and limit == math.inf:
            inputs = tag(ops.relu(inputs), Rectifier(quantizer))
    return layer.activate(inputs, activation)


def _of_two(operation):
    def find(layer, inputs):
        return operation(*inputs) if len(inputs) == 2 else None

    return find


def _leaky(layer, inputs):
    bends = activation_of(layer) is keras.activations.leaky_relu
    return leaky_of(inputs, layer.negative_slope) if bends else None


def _mean(layer, inputs):
    first = 1 if layer.data_format == "channels_last" else 2
    return mean_of(inputs, range(first, len(inputs.shape) - 2 + first))


# The integer operation of a layer and its inputs, by the row's `rounding`.
_OPERATIONS = {
    "sum": _of_two(sum_of),
    "difference": _of_two(difference_of),
    "product": _of_two(product_of),
    "mean": _mean,
    "leaky": _leaky,
}

ACTIVATION_LAYERS = {
    base: _make(base, row)
    for base, row in LAYERS.items()
    if not (row.kernels or row.is_composite)
    and row.values != "joined"
    and row.rounding != "affine"
}
ACTIVATION_LAYERS |= {
    cls.keras_class: cls for cls in (MicroConcatenate, MicroMaximum, MicroMinimum)
}
