"""Which integers a tensor holds on the device, for the layers that read it.

A device rounds a bias to the step of its layer's sums, averages on the grid of what it
averages, and multiplies sums by the ratio of two steps. Layers therefore have to know
what made their input, in graphs and in subclassed models, at each of their calls: a
tensor remembers it while it lives.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import keras
from keras import ops

SMALLEST_STEP = 1e-20
ADD_BITS = 20  # XNNPACK's

_SOURCES = {}


def mark(tensor, source):
    """Note what made a tensor, if known, and return the tensor."""
    if source is not None:
        key = id(tensor)
        if key not in _SOURCES:
            weakref.finalize(tensor, _SOURCES.pop, key, None).atexit = False
        _SOURCES[key] = source
    return tensor


def grid_of(tensor):
    """Return the `ActivationQuantizer` that rounded a tensor, or `None`."""
    source = _SOURCES.get(id(tensor))
    return None if isinstance(source, Exact) else source


def sums_of(tensor):
    """Return the `Exact` source of a tensor that is not rounded yet, or `None`."""
    source = _SOURCES.get(id(tensor))
    return source if isinstance(source, Exact) else None


class Exact:
    """Base of what is behind a tensor that the device has in more than 8 bits."""

    def integers(self, values, step):
        """Return a tensor's integers as the device rounds them, not clipped.

        It multiplies its own integers by the ratio of their step to the new one.

        Args:
            values: The tensor.
            step: Real value of one of the integers asked for.
        """
        own = self.step()
        integers = ops.round(ops.divide(values, own))
        return ops.round(ops.multiply(integers, ops.divide(own, step)))


@dataclass(frozen=True)
class Sums(Exact):
    """Behind what a kernel puts out before any rounding: sums of integer products.

    It holds layers and functions, not tensors: one would keep its whole graph alive.

    Attributes:
        inputs: The `ActivationQuantizer` behind the kernel's input.
        limit: Function that returns the largest magnitude of the kernel on the
            device: a number, or one for each channel.
        largest: The integer that stands for it. Defaults to 127.
    """

    inputs: Any
    limit: Callable
    largest: int = 127

    @property
    def frozen(self):
        """The quantisers' frozen state, `None` where they are not frozen."""
        return self.inputs.frozen

    def is_on(self):
        """Return whether the input is rounded, a Boolean or a tensor."""
        return self.inputs.is_on()

    def step(self):
        """Return the real value of one integer: a number, or one for each channel."""
        scale = ops.divide(wide(self.limit()), self.largest)
        return ops.multiply(self.inputs.step(), ops.cast(scale, "float32"))

    def scaled(self, factor):
        """Return the sums after each channel has been multiplied by a number.

        The device makes the factors part of the kernel.

        Args:
            factor: Function that returns them.
        """

        def limit():
            return ops.multiply(wide(self.limit()), wide(ops.abs(factor())))

        return replace(self, limit=limit)


@dataclass(frozen=True)
class Products(Exact):
    """Behind the product of two tensors that quantisers rounded.

    Attributes:
        first, second: Their `ActivationQuantizer`s.
    """

    first: Any
    second: Any

    @property
    def frozen(self):
        """The quantisers' frozen state, `None` where they are not frozen."""
        return self.first.frozen

    def is_on(self):
        """Return whether the tensors are rounded, a Boolean or a tensor."""
        return self.first.is_on()

    def step(self):
        """Return the real value of one integer."""
        return ops.multiply(self.first.step(), self.second.step())


@dataclass(frozen=True)
class Means(Exact):
    """Behind the means of a tensor that a quantiser rounded.

    Attributes:
        inputs: Its `ActivationQuantizer`.
        n: Integers in a mean.
    """

    inputs: Any
    n: int

    def integers(self, values, step):
        own = self.inputs.step()
        sums = ops.round(ops.divide(ops.multiply(values, self.n), own))
        ratio = ops.multiply(ops.divide(own, step), 1.0 / self.n)
        return ops.round(ops.multiply(sums, ratio))


@dataclass(frozen=True)
class Rescaled(Exact):
    """Behind a rounded tensor, cut off below, that gets another range.

    Attributes:
        inputs: The `ActivationQuantizer` that rounded it.
    """

    inputs: Any

    def integers(self, values, step):
        own = self.inputs.step()
        ratio = ops.divide(wide(own), wide(step))
        integers = ops.round(ops.divide(values, own))
        return ops.cast(ops.round(ops.multiply(wide(integers), ratio)), "float32")


@dataclass(frozen=True)
class Terms(Exact):
    """Behind the sum or difference of two tensors that quantisers rounded.

    The device multiplies both by integers of 21 bits that stand for the ratios of
    the steps, adds, and shifts.

    Attributes:
        terms: The two tensors, as weak references.
        grids: Their `ActivationQuantizer`s.
        signs: 1 or -1 for each.
    """

    terms: tuple
    grids: tuple
    signs: tuple = (1, 1)

    def integers(self, values, step):
        terms = [term() for term in self.terms]
        if any(term is None for term in terms):
            return ops.round(ops.divide(values, step))
        ratios = [ops.divide(grid.step(), step) for grid in self.grids]
        exponent = ops.floor(ops.log2(ops.maximum(*ratios)))
        scale = ops.power(2.0, ADD_BITS - exponent)
        total = ops.divide(scale, 2.0)  # so that the shift rounds
        total = ops.cast(total, "int32")
        for term, grid, sign, ratio in zip(
            terms, self.grids, self.signs, ratios, strict=True
        ):
            factor = ops.round(ops.multiply(sign * ratio, scale))
            integers = ops.round(ops.divide(ops.cast(term, "float32"), grid.step()))
            product = ops.cast(integers, "int32") * ops.cast(factor, "int32")
            total = ops.add(total, product)
        shift = ops.cast(ADD_BITS - exponent, "int32")
        return ops.cast(ops.right_shift(total, shift), "float32")


def wide(values):
    """Cast to the precision in which the converter computes scales; JAX lacks it."""
    jax = keras.backend.backend() == "jax"
    return ops.cast(values, "float32" if jax else "float64")


def round_to_step(values, step, is_on):
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
