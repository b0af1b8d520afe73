"""Compute the integers of LiteRT's operations: how each one rounds its result.

The integers are those of LiteRT with XNNPACK. An instance describes one result and can
be the origin of a tensor (see `provenance`).
"""

import math
import numbers
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from keras import ops

from keras_micronets._backend import to_float64
from keras_micronets.layers.litert.provenance import (
    SMALLEST_STEP,
    IntegerOperation,
    integer_operation_of,
    quantizer_of,
)

__all__ = [
    "Accumulator",
    "Constant",
    "ConstantProduct",
    "FusedRectifier",
    "LeakyRectifier",
    "MatrixProduct",
    "Mean",
    "Product",
    "Rectifier",
    "Sum",
    "difference_of",
    "leaky_of",
    "matrix_product_of",
    "mean_of",
    "product_of",
    "quotient_of",
    "rectified",
    "round_to_step",
    "sum_of",
    "to_integers",
]

N_STEPS = 255
ADD_BITS, LEAKY_BITS = 20, 8
SMALLEST_CONSTANT = 1e-30  # its scale is a float32


@dataclass(frozen=True)
class Accumulator(IntegerOperation):
    """Sum products of inputs and kernel weights in 32 bits.

    Attributes:
        inputs: The `ActivationQuantizer` of the inputs.
        limit: Function that returns the largest magnitude of the kernel in the file: a
            number, or one for each channel.
        bits: Width of the kernel's integers in the file, 4 or 8. Defaults to 8.
        halves: How halves are rounded the second time, `"up"` or `"away"` from zero,
            where LiteRT rounds twice; `None` if it rounds once. Defaults to `None`.
    """

    inputs: Any
    limit: Callable
    bits: int = 8
    halves: str | None = None

    def is_on(self) -> Any:
        """Return whether the inputs are rounded, a Boolean or a tensor."""
        return self.inputs.is_on()

    def scale(self) -> Any:
        """Return the real value of one integer: a number, or one for each channel."""
        scale = ops.divide(to_float64(self.limit()), 2 ** (self.bits - 1) - 1)
        return ops.multiply(self.inputs.scale(), ops.cast(scale, "float32"))

    def round_bias(self, bias: Any) -> Any:
        """Round a bias to the integers that LiteRT adds."""
        return round_to_step(bias, self.scale(), self.is_on())

    def scaled(self, factor: Any) -> "Accumulator":
        """Return the accumulator after factors became part of the kernel.

        Args:
            factor: Function that returns one number for each channel.
        """

        def limit():
            return ops.multiply(to_float64(self.limit()), to_float64(ops.abs(factor())))

        return replace(self, limit=limit)

    def integers(self, values: Any, target: Any) -> Any:
        if self.halves is None:
            return super().integers(values, target)
        own = ops.maximum(self.scale(), SMALLEST_STEP)
        sums = to_float64(ops.round(ops.divide(values, own)))
        ratio = ops.divide(to_float64(own), to_float64(target.scale()))
        again = _half_up if self.halves == "up" else _half_away
        return _rounded_twice(sums, ratio, again)


def _rounded_twice(integers, ratio, again):
    """Multiply by a factor between 0.5 and 1, and then shift to the right."""
    exponent = ops.minimum(ops.floor(ops.log2(ratio)) + 1, 0)
    shift = ops.power(to_float64(2.0), -exponent)
    multiplied = _half_up(ops.multiply(integers, ops.multiply(ratio, shift)))
    return ops.cast(again(ops.divide(multiplied, shift)), "float32")


def _half_up(x):
    return ops.floor(ops.add(x, 0.5))


def _half_away(x):
    return ops.multiply(ops.sign(x), _half_up(ops.abs(x)))


@dataclass(frozen=True)
class Constant:
    """Hold a number of a model's graph, or an array, in the 8 bits of the file.

    Called without arguments, as a weak reference to a tensor is, it returns the value
    that the file has.

    Attributes:
        value: `numpy.float32`, or an array of them; not all of them zero.
    """

    value: Any

    def __call__(self) -> Any:
        return self.integers() * self.scale()

    def scale(self) -> Any:
        """Return the real value of one integer; zero is always representable."""
        lower, upper = self._bounds()
        return np.float32((upper - lower) / N_STEPS)

    def integers(self) -> Any:
        """Return the integers in the file, counted from the zero point."""
        least = np.rint(np.float32(self._bounds()[0]) / self.scale())
        return np.clip(np.rint(self.value / self.scale()), least, least + N_STEPS)

    def _bounds(self):
        return np.float64(min(np.min(self.value), 0)), max(np.max(self.value), 0)


@dataclass(frozen=True)
class FusedRectifier(IntegerOperation):
    """Clip the rounded result of another operation to a rectifier's limit.

    Attributes:
        before: The `IntegerOperation` whose result is rectified.
        limit: Number, the largest output.
        least: Number, the smallest output.
    """

    before: IntegerOperation
    limit: float
    least: float

    def integers(self, values: Any, target: Any) -> Any:
        integers = self.before.integers(values, target)
        least, limit = (ops.round(x / target.scale()) for x in (self.least, self.limit))
        return ops.clip(integers, least, limit)


def rectified(
    inputs: Any, limit: float | None, least: float = 0.0
) -> IntegerOperation | None:
    """Return the operation of a rectified tensor, `None` if there is none.

    Args:
        inputs: Tensor that is rectified.
        limit: Number, the largest output; `None` or infinity if there is no limit.
        least: Number, the smallest output. Defaults to 0.
    """
    before = integer_operation_of(inputs)
    if before is None or limit in (None, math.inf):
        return before
    return FusedRectifier(before, limit, least)


@dataclass(frozen=True)
class Product(IntegerOperation):
    """Multiply two rounded tensors.

    Attributes:
        first, second: Their `ActivationQuantizer`s.
    """

    first: Any
    second: Any

    by_value = True

    def scale(self) -> Any:
        """Return the real value of one integer."""
        return ops.multiply(self.first.scale(), self.second.scale())


class MatrixProduct(Product):
    """Multiply two rounded matrices.

    LiteRT rounds the sums twice, except where XNNPACK computes them, which takes a
    second matrix whose zero point is 0.
    """

    def integers(self, values: Any, target: Any) -> Any:
        own = self.scale()
        ratio = ops.divide(to_float64(own), to_float64(target.scale()))
        sums = to_float64(ops.round(ops.divide(values, own)))
        once = super().integers(values, target)
        twice = _rounded_twice(sums, ratio, _half_away)
        return ops.where(ops.equal(self.second.zero_point(), 0), once, twice)


@dataclass(frozen=True)
class ConstantProduct(IntegerOperation):
    """Multiply a rounded tensor by a constant.

    Attributes:
        inputs: The `ActivationQuantizer` of the tensor.
        constant: The `Constant`.
    """

    inputs: Any
    constant: Constant

    @property
    def by_value(self) -> bool:
        """Whether all values are multiplied by one number."""
        return np.ndim(self.constant.value) == 0

    def integers(self, values: Any, target: Any) -> Any:
        own, constant = self.inputs.scale(), self.constant
        value = np.where(constant.value == 0, np.float32(1), constant.value)
        integers = ops.round(ops.divide(values, ops.multiply(own, value)))
        # As integers: TensorFlow would join the two factors of a float.
        products = ops.multiply(
            ops.cast(integers, "int32"), constant.integers().astype("int32")
        )
        products = ops.cast(products, "float32")
        scale = ops.multiply(own, constant.scale())
        return ops.round(ops.multiply(products, ops.divide(scale, target.scale())))


@dataclass(frozen=True)
class Mean(IntegerOperation):
    """Average a rounded tensor, and round to another range.

    Attributes:
        inputs: The `ActivationQuantizer` of the tensor.
        n: Number of values in a mean.
    """

    inputs: Any
    n: int

    def integers(self, values: Any, target: Any) -> Any:
        own = self.inputs.scale()
        sums = ops.round(ops.divide(ops.multiply(values, self.n), own))
        # The range is often that of a single mean, so halves are frequent. They round
        # as LiteRT's sum does, which includes the zero points.
        zero, new_zero = self.inputs.zero_point(), target.zero_point()
        ratio = ops.divide(own, target.scale())
        raw = ops.add(sums, ops.multiply(zero, self.n))
        bias = ops.subtract(new_zero, ops.multiply(zero, ratio))
        outputs = ops.round(ops.add(ops.multiply(raw, ratio / self.n), bias))
        return ops.subtract(outputs, new_zero)


@dataclass(frozen=True)
class Rectifier(IntegerOperation):
    """Rectify a rounded tensor, and round to another range.

    LiteRT multiplies by a factor from 1/2 to 1 and a power of two. If the latter is
    smaller than 1, it rounds twice: after the factor and after the power.

    Attributes:
        inputs: The `ActivationQuantizer` of the tensor.
    """

    inputs: Any

    def integers(self, values: Any, target: Any) -> Any:
        own = self.inputs.scale()
        ratio = to_float64(ops.divide(own, target.scale()))
        integers = to_float64(ops.round(ops.divide(values, own)))
        return _rounded_twice(integers, ratio, _half_up)


@dataclass(frozen=True)
class LeakyRectifier(IntegerOperation):
    """Multiply the negative values of a rounded tensor by a slope.

    LiteRT holds both factors, of positive and of negative values, in steps of 1/256.

    Attributes:
        inputs: The `ActivationQuantizer` of the tensor.
        slope: Number.
    """

    inputs: Any
    slope: float

    def integers(self, values: Any, target: Any) -> Any:
        ratio = ops.divide(self.inputs.scale(), target.scale())
        below = ops.divide(values, ops.multiply(self.inputs.scale(), self.slope))
        above = ops.divide(values, self.inputs.scale())
        negative = ops.less(values, 0.0)
        integers = ops.round(ops.where(negative, below, above))
        factor = ops.where(negative, ops.multiply(ratio, self.slope), ratio)
        factor = ops.round(ops.multiply(factor, 2**LEAKY_BITS))
        return _half_up(ops.multiply(integers, factor) / 2**LEAKY_BITS)


@dataclass(frozen=True)
class Sum(IntegerOperation):
    """Add two rounded tensors, or subtract the second.

    LiteRT multiplies both by integers of 21 bits that stand for the ratios of the
    scales, adds, and shifts.

    Attributes:
        terms: The two tensors, as weak references. One may be a `Constant`.
        quantizers: Their `ActivationQuantizer`s, or that `Constant`.
        signs: 1 or -1 for each.
    """

    terms: tuple
    quantizers: tuple
    signs: tuple = (1, 1)

    def integers(self, values: Any, target: Any) -> Any:
        terms, step = [term() for term in self.terms], target.scale()
        if any(term is None for term in terms):
            return ops.round(ops.divide(values, step))
        ratios = [ops.divide(one.scale(), step) for one in self.quantizers]
        exponent = ops.floor(ops.log2(ops.maximum(*ratios)))
        scale = ops.power(2.0, ADD_BITS - exponent)
        total = ops.divide(scale, 2.0)  # so that the shift rounds
        total = ops.cast(total, "int32")
        for term, quantizer, sign, ratio in zip(
            terms, self.quantizers, self.signs, ratios, strict=True
        ):
            factor = ops.round(ops.multiply(sign * ratio, scale))
            term = ops.divide(ops.cast(term, "float32"), quantizer.scale())
            integers = ops.cast(ops.round(term), "int32")
            total = ops.add(total, integers * ops.cast(factor, "int32"))
        shift = ops.cast(ADD_BITS - exponent, "int32")
        return ops.cast(ops.right_shift(total, shift), "float32")


def sum_of(first: Any, second: Any, sign: int = 1) -> Sum | None:
    """Return the operation that adds two operands, `None` if one is not rounded.

    Args:
        first, second: Tensors; one may be a number or an array.
        sign: 1 or -1, the factor of the second. Defaults to 1.
    """
    quantizers = _quantizer(first), _quantizer(second)
    if None in quantizers:
        return None
    terms = tuple(
        one if isinstance(one, Constant) else weakref.ref(x)
        for x, one in zip((first, second), quantizers, strict=True)
    )
    return Sum(terms, quantizers, (1, sign))


def difference_of(first: Any, second: Any) -> Sum | None:
    """Return the operation that subtracts the second operand, as `sum_of`."""
    return sum_of(first, second, -1)


def product_of(first: Any, second: Any) -> IntegerOperation | None:
    """Return the operation that multiplies two operands, as `sum_of`."""
    quantizers = _quantizer(first), _quantizer(second)
    if None in quantizers:
        return None
    first, second = sorted(quantizers, key=lambda one: isinstance(one, Constant))
    kind = ConstantProduct if isinstance(second, Constant) else Product
    return kind(first, second)


def matrix_product_of(first: Any, second: Any) -> MatrixProduct | None:
    """Return the operation that multiplies two matrices, `None` if not rounded."""
    quantizers = quantizer_of(first), quantizer_of(second)
    return None if None in quantizers else MatrixProduct(*quantizers)


def quotient_of(first: Any, second: Any) -> IntegerOperation | None:
    """Return the operation that multiplies by the inverse of a constant, or `None`."""
    divisor = _quantizer(second)
    if not isinstance(divisor, Constant) or not np.all(divisor.value):
        return None
    return product_of(first, np.float32(1) / divisor.value)


def leaky_of(inputs: Any, slope: float) -> LeakyRectifier | None:
    """Return the operation of a leaky rectifier, `None` if a tensor is not rounded."""
    quantizer = quantizer_of(inputs)
    return None if quantizer is None else LeakyRectifier(quantizer, slope)


def mean_of(inputs: Any, axes: Iterable[int]) -> Mean | None:
    """Return the operation that averages a tensor over axes, `None` if not rounded."""
    quantizer, sizes = quantizer_of(inputs), [inputs.shape[axis] for axis in axes]
    if quantizer is None or None in sizes:
        return None
    return Mean(quantizer, math.prod(sizes))


def _quantizer(operand):
    """Return the quantiser or constant that defines an operand's scale, or `None`."""
    if not isinstance(operand, numbers.Real | np.ndarray):
        return quantizer_of(operand)
    value = np.asarray(operand, "float32")
    return Constant(value) if np.any(abs(value) > SMALLEST_CONSTANT) else None


def to_integers(inputs: Any, quantizer: Any) -> Any:
    """Return the integers to which LiteRT rounds a tensor, not yet clipped.

    It rescales the integers that it has; a tensor of unknown origin is divided.

    Args:
        inputs: Float tensor.
        quantizer: The `ActivationQuantizer` that rounds it. Its integers are counted
            from its zero point.
    """
    operation, own = integer_operation_of(inputs), quantizer_of(inputs)
    values = ops.cast(inputs, "float32")
    if operation is None and own is not None:
        operation = LeakyRectifier(own, slope=1.0)  # rescaled by the same kernel
    if operation is None:
        return ops.round(ops.divide(values, quantizer.scale()))
    return operation.integers(values, quantizer)


def round_to_step(values: Any, step: Any, is_on: Any) -> Any:
    """Round values to multiples of a step, if quantisers are on.

    Args:
        values: Float tensor, as biases.
        step: Positive number, or tensor that broadcasts to `values`; where it is
            zero nothing is rounded.
        is_on: Boolean, or Boolean tensor of one element.
    """
    exact, safe = ops.cast(values, "float32"), ops.maximum(step, SMALLEST_STEP)
    rounded = ops.multiply(ops.round(ops.divide(exact, safe)), safe)
    wanted = ops.logical_and(is_on, ops.greater(step, SMALLEST_STEP))
    return ops.cast(ops.where(wanted, rounded, exact), values.dtype)
