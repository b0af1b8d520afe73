"""What a device knows of a tensor before it rounds it to 8 bits, and how it rounds.

Each class holds layers, functions and weak references, never tensors: the note that a
tensor carries must not keep the tensor's graph alive. The integers are those of LiteRT
with XNNPACK.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from keras import ops

from keras_micronets.layers.device.source import SMALLEST_STEP, Exact, wide

ADD_BITS, LEAKY_BITS = 20, 8


@dataclass(frozen=True)
class Sums(Exact):
    """Behind what a kernel puts out before any rounding: sums of integer products.

    It holds layers and functions, not tensors: one would keep its whole graph alive.

    Attributes:
        inputs: The `ActivationQuantizer` behind the kernel's input.
        limit: Function that returns the largest magnitude of the kernel on the
            device: a number, or one for each channel.
        bits: Width of the kernel's integers in a file, 4 or 8. Defaults to 8.
        round_twice: Function that rounds halves, where the device rounds the sums
            twice, as it does behind kernels of 4 bits; `None` elsewhere. Defaults to
            `None`.
    """

    inputs: Any
    limit: Callable
    bits: int = 8
    round_twice: Callable | None = None

    def is_on(self):
        """Return whether the input is rounded, a Boolean or a tensor."""
        return self.inputs.is_on()

    def scale(self):
        """Return the real value of one integer: a number, or one for each channel."""
        scale = ops.divide(wide(self.limit()), 2 ** (self.bits - 1) - 1)
        return ops.multiply(self.inputs.scale(), ops.cast(scale, "float32"))

    def scaled(self, factor):
        """Return the sums after each channel has been multiplied by a number.

        The device makes the factors part of the kernel.

        Args:
            factor: Function that returns them.
        """

        def limit():
            return ops.multiply(wide(self.limit()), wide(ops.abs(factor())))

        return replace(self, limit=limit)

    def integers(self, values, target):
        if self.round_twice is None:
            return super().integers(values, target)
        own = ops.maximum(self.scale(), SMALLEST_STEP)
        sums = wide(ops.round(ops.divide(values, own)))
        ratio = ops.divide(wide(own), wide(target.scale()))
        # It multiplies by what is between 0.5 and 1, and then shifts to the right.
        exponent = ops.minimum(ops.floor(ops.log2(ratio)) + 1, 0)
        shift = ops.power(wide(2.0), -exponent)
        multiplied = half_up(ops.multiply(sums, ops.multiply(ratio, shift)))
        return ops.cast(self.round_twice(ops.divide(multiplied, shift)), "float32")


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
class HardSwished(Exact):
    """Behind the hard swish of a tensor that a quantiser rounded.

    The device has 7 more bits of the input, 15 of the gate between 0 and 1, and 16 of
    each multiplier.

    Attributes:
        tensor: The input, as a weak reference.
        inputs: Its `ActivationQuantizer`.
    """

    tensor: Any
    inputs: Any

    def integers(self, values, target):
        tensor, step = self.tensor(), target.scale()
        if tensor is None:
            return ops.round(ops.divide(values, step))
        own = self.inputs.scale()
        finer = ops.divide(wide(own), 128.0)
        factor, exponent = _multiplier(ops.divide(finer, wide(step)))
        gate_factor, gate_exponent = _multiplier(ops.divide(finer, 3 / 2**15))
        inputs = ops.round(ops.divide(ops.cast(tensor, "float32"), own))
        inputs = _to_16_bits(ops.multiply(ops.cast(inputs, "int32"), 128))
        gate = _to_16_bits(_shift(inputs, ops.maximum(gate_exponent - 1, 0)))
        gate = _rounded_high(gate, gate_factor)
        doubled = _to_16_bits(ops.multiply(gate, 2))
        gate = ops.where(gate_exponent > 0, doubled, gate)
        gate = _divide(gate, ops.maximum(-gate_exponent, 0))
        gate = ops.right_shift(gate + 2**15, 1)
        product = _cut(ops.multiply(gate, _rounded_high(inputs, factor)), 15)
        return ops.cast(_divide(product, ops.maximum(-exponent, 0)), "float32")


def half_up(x):
    """Round, and halves upwards."""
    return ops.floor(ops.add(x, 0.5))


def half_away(x):
    """Round, and halves away from zero."""
    return ops.multiply(ops.sign(x), half_up(ops.abs(x)))


def _multiplier(ratio):
    """Return a 16-bit multiplier and an exponent for a positive number."""
    exponent = ops.floor(ops.log2(ratio)) + 1
    factor = ops.floor(ratio / ops.power(wide(2.0), exponent) * 2**15 + 0.5)
    factor = ops.minimum(factor, 2**15 - 1)
    return ops.cast(factor, "int32"), ops.cast(exponent, "int32")


def _to_16_bits(x):
    return ops.clip(x, -(2**15), 2**15 - 1)


def _shift(x, bits):
    return ops.multiply(x, ops.left_shift(ops.ones_like(bits), bits))


def _rounded_high(a, b):
    """The upper 16 bits of twice a product, halves rounded away from zero."""
    product = ops.multiply(a, b)
    nudge = ops.where(product >= 0, 2**14, 1 - 2**14)
    return _to_16_bits(_cut(product + nudge, 15))


def _cut(x, bits):
    """Divide by a power of two towards zero."""
    return ops.sign(x) * ops.right_shift(ops.abs(x), bits)


def _divide(x, bits):
    """Divide by a power of two, halves rounded away from zero."""
    half = ops.right_shift(ops.left_shift(ops.ones_like(bits), bits), 1)
    return ops.sign(x) * ops.right_shift(ops.abs(x) + half, bits)
