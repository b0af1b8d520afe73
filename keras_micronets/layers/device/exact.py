"""What a device knows of a tensor before it rounds it to 8 bits, and how it rounds.

Each class holds layers, functions and weak references, never tensors: the note that a
tensor carries must not keep the tensor's graph alive. The integers are those of LiteRT
with XNNPACK. `device.sums` and `device.hard_swish` have two more.
"""

from dataclasses import dataclass
from typing import Any

from keras import ops

from keras_micronets.layers.device.source import Exact, wide

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
