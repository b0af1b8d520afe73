"""Behind a kernel: sums of integers that nothing has rounded yet."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from keras import ops

from keras_micronets.layers.litert.provenance import SMALLEST_STEP, Exact, wide


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


def half_up(x):
    """Round, and halves upwards."""
    return ops.floor(ops.add(x, 0.5))


def half_away(x):
    """Round, and halves away from zero."""
    return ops.multiply(ops.sign(x), half_up(ops.abs(x)))
