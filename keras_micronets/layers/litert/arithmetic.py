"""What a device knows of a tensor before it rounds it to 8 bits, and how it rounds.

Each class holds layers, functions and weak references, never tensors: the note that a
tensor carries must not keep the tensor's graph alive. The integers are those of LiteRT
with XNNPACK. `device.sums` and `device.hard_swish` have two more.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from keras_micronets.layers.litert.provenance import Exact, grid_of, sums_of, wide

N_STEPS = 255


@dataclass(frozen=True)
class Constant:
    """A number in a model's graph, or an array of them, in the 8 bits of the file.

    Called without arguments it returns what the device has of them, as a weak
    reference does a tensor, so that it can be a term of a sum.

    Attributes:
        value: `numpy.float32`, or an array of them; not all of them zero.
    """

    value: Any

    def __call__(self):
        return self.integers() * self.scale()

    def scale(self):
        """Return the real value of one integer; zero is always representable."""
        lower, upper = self._bounds()
        return np.float32((upper - lower) / N_STEPS)

    def integers(self):
        """Return the integers that the file holds; zero is 0."""
        least = np.rint(np.float32(self._bounds()[0]) / self.scale())
        return np.clip(np.rint(self.value / self.scale()), least, least + N_STEPS)

    def _bounds(self):
        return np.float64(min(np.min(self.value), 0)), max(np.max(self.value), 0)


@dataclass(frozen=True)
class Rectified(Exact):
    """Behind a rectifier with a limit, which the device applies to the integers.

    Attributes:
        before: The `Exact` source of what is rectified.
        limit: Number, the largest output.
    """

    before: Exact
    limit: float

    def integers(self, values, target):
        integers = self.before.integers(values, target)
        return ops.clip(integers, 0, ops.round(self.limit / target.scale()))


def rectified(before, limit):
    """Return the source of what a rectifier puts out, `None` if there is none.

    Args:
        before: The `Exact` source of what it reads, or `None`.
        limit: Number, its largest output; `None` if there is no limit.
    """
    return before if None in (before, limit) else Rectified(before, limit)


ADD_BITS, LEAKY_BITS = 20, 8


@dataclass(frozen=True)
class Products(Exact):
    """Behind the product of two tensors that quantisers rounded.

    Attributes:
        first, second: Their `ActivationQuantizer`s.
    """

    first: Any
    second: Any

    def scale(self):
        """Return the real value of one integer."""
        return ops.multiply(self.first.scale(), self.second.scale())


@dataclass(frozen=True)
class Means(Exact):
    """Behind the means of a tensor that a quantiser rounded.

    Attributes:
        inputs: Its `ActivationQuantizer`.
        n: Integers in a mean.
    """

    inputs: Any
    n: int

    def integers(self, values, target):
        own = self.inputs.scale()
        sums = ops.round(ops.divide(ops.multiply(values, self.n), own))
        # A range is often that of one mean, which makes halves frequent: they fall
        # as the device's own sum with its zero points does.
        zero, new_zero = self.inputs.zero_point(), target.zero_point()
        ratio = ops.divide(own, target.scale())
        raw = ops.add(sums, ops.multiply(zero, self.n))
        bias = ops.subtract(new_zero, ops.multiply(zero, ratio))
        outputs = ops.round(ops.add(ops.multiply(raw, ratio / self.n), bias))
        return ops.subtract(outputs, new_zero)


@dataclass(frozen=True)
class Rescaled(Exact):
    """Behind a rounded tensor, cut off below, that gets another range.

    The device has a multiplier from 1/2 to 1 and a power of two. Where that is
    smaller than 1, it rounds twice: first to the multiple, then to the integer.

    Attributes:
        inputs: The `ActivationQuantizer` that rounded it.
    """

    inputs: Any

    def integers(self, values, target):
        own = self.inputs.scale()
        ratio = wide(ops.divide(own, target.scale()))
        power = ops.power(wide(2.0), ops.minimum(ops.floor(ops.log2(ratio)) + 1, 0))
        integers = wide(ops.round(ops.divide(values, own)))
        multiples = ops.floor(ops.multiply(integers, ratio / power) + 0.5)
        outputs = ops.floor(ops.multiply(multiples, power) + 0.5)
        return ops.cast(outputs, "float32")


@dataclass(frozen=True)
class Leaked(Exact):
    """Behind a rounded tensor whose negative values were multiplied by a slope.

    The device has the two factors in steps of 1/256.

    Attributes:
        inputs: The `ActivationQuantizer` that rounded it.
        slope: Number.
    """

    inputs: Any
    slope: float

    def integers(self, values, target):
        ratio = ops.divide(self.inputs.scale(), target.scale())
        below = ops.divide(values, ops.multiply(self.inputs.scale(), self.slope))
        above = ops.divide(values, self.inputs.scale())
        negative = ops.less(values, 0.0)
        integers = ops.round(ops.where(negative, below, above))
        factor = ops.where(negative, ops.multiply(ratio, self.slope), ratio)
        factor = ops.round(ops.multiply(factor, 2**LEAKY_BITS))
        return ops.floor(ops.multiply(integers, factor) / 2**LEAKY_BITS + 0.5)


@dataclass(frozen=True)
class Terms(Exact):
    """Behind the sum or difference of two tensors that quantisers rounded.

    The device multiplies both by integers of 21 bits that stand for the ratios of
    the steps, adds, and shifts.

    Attributes:
        terms: The two tensors, as weak references. One may be a `Constant`.
        grids: Their `ActivationQuantizer`s, or that `Constant`.
        signs: 1 or -1 for each.
    """

    terms: tuple
    grids: tuple
    signs: tuple = (1, 1)

    def integers(self, values, target):
        terms, step = [term() for term in self.terms], target.scale()
        if any(term is None for term in terms):
            return ops.round(ops.divide(values, step))
        ratios = [ops.divide(grid.scale(), step) for grid in self.grids]
        exponent = ops.floor(ops.log2(ops.maximum(*ratios)))
        scale = ops.power(2.0, ADD_BITS - exponent)
        total = ops.divide(scale, 2.0)  # so that the shift rounds
        total = ops.cast(total, "int32")
        for term, grid, sign, ratio in zip(
            terms, self.grids, self.signs, ratios, strict=True
        ):
            factor = ops.round(ops.multiply(sign * ratio, scale))
            integers = ops.round(ops.divide(ops.cast(term, "float32"), grid.scale()))
            product = ops.cast(integers, "int32") * ops.cast(factor, "int32")
            total = ops.add(total, product)
        shift = ops.cast(ADD_BITS - exponent, "int32")
        return ops.cast(ops.right_shift(total, shift), "float32")


@dataclass(frozen=True)
class Multiples(Exact):
    """Behind the product of a tensor that a quantiser rounded with a constant.

    Attributes:
        inputs: The `ActivationQuantizer` of the tensor.
        constant: The `Constant`.
    """

    inputs: Any
    constant: Constant

    def integers(self, values, target):
        own, constant = self.inputs.scale(), self.constant
        value = np.where(constant.value == 0, np.float32(1), constant.value)
        integers = ops.round(ops.divide(values, ops.multiply(own, value)))
        products = ops.multiply(integers, constant.integers())
        scale = ops.multiply(own, constant.scale())
        return ops.round(ops.multiply(products, ops.divide(scale, target.scale())))


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
