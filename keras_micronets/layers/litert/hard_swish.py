"""Compute the hard swish as LiteRT does, in integers of 16 bits."""

from dataclasses import dataclass
from typing import Any

from keras import ops

from keras_micronets._backend import to_float64
from keras_micronets.layers.litert.provenance import IntegerOperation

__all__ = ["HardSwish"]


@dataclass(frozen=True)
class HardSwish(IntegerOperation):
    """Apply the hard swish to a rounded tensor.

    LiteRT holds 7 more bits of the input, 15 of the gate between 0 and 1, and 16 of
    each multiplier.

    Attributes:
        tensor: The input, as a weak reference.
        inputs: Its `ActivationQuantizer`.
    """

    tensor: Any
    inputs: Any

    def integers(self, values: Any, target: Any) -> Any:
        tensor, step = self.tensor(), target.scale()
        if tensor is None:
            return ops.round(ops.divide(values, step))
        own = self.inputs.scale()
        finer = ops.divide(to_float64(own), 128.0)
        factor, exponent = _multiplier(ops.divide(finer, to_float64(step)))
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


def _multiplier(ratio):
    """Return a 16-bit multiplier and an exponent for a positive number."""
    exponent = ops.floor(ops.log2(ratio)) + 1
    factor = ops.floor(ratio / ops.power(to_float64(2.0), exponent) * 2**15 + 0.5)
    factor = ops.minimum(factor, 2**15 - 1)
    return ops.cast(factor, "int32"), ops.cast(exponent, "int32")


def _to_16_bits(x):
    return ops.clip(x, -(2**15), 2**15 - 1)


def _shift(x, bits):
    return ops.multiply(x, ops.left_shift(ops.ones_like(bits), bits))


def _rounded_high(a, b):
    """Return the upper 16 bits of twice a product, halves rounded away from 0."""
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
