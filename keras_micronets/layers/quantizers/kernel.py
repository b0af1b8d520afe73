"""Fake quantisers of kernels, with the kernel's range or learned step sizes."""

import math
from typing import Any

import numpy as np
from keras import ops

from keras_micronets._backend import cond, read
from keras_micronets._serialization import serializable
from keras_micronets.layers.litert.fake_quant import quantize_kernel
from keras_micronets.layers.quantizers.learned import (
    LearnedStep,
    add_dependence,
    gradient_scale,
    round_to_steps,
    scale_gradient,
)
from keras_micronets.layers.state import Quantizer

__all__ = ["SMALLEST_KERNEL_RANGE", "KernelQuantizer", "LearnedKernelQuantizer"]

# Why so large: see SMALLEST_RANGE of the activations.
SMALLEST_KERNEL_RANGE = 4e-3


@serializable()
class KernelQuantizer(Quantizer):
    """Round a kernel to the integers that an exported file holds.

    The integers are symmetric, within [-127, 127] for 8 bits, and zeros stay zero. The
    range is the largest magnitude of the kernel. Gradients pass straight through (Jacob
    et al. 2018, "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference"). It does nothing until `active` is set.

    Args:
        axis: Integer, the axis with a scale for each index; `None` for one scale.
            Defaults to `None`.
        bits: Integer from 2 to 8. Files store 4 or 8 bits; with 3, 5, 6 or 7 the values
            are rounded again, to the integers of the file. Defaults to `8`.

    Call arguments:
        kernel: Float tensor.
    """

    def __init__(self, *, axis: int | None = None, bits: int = 8, **kwargs: Any):
        super().__init__(**kwargs)
        self.axis = axis
        self.bits = bits

    def call(self, kernel: Any) -> Any:
        if self.constant is not None:
            return self._quantize(kernel) if self.constant else kernel
        return cond(read(self.active), lambda: self._quantize(kernel), lambda: kernel)

    @property
    def largest(self) -> int:
        """The largest integer."""
        return 2 ** (self.bits - 1) - 1

    @property
    def bits_in_file(self) -> int:
        """Width of the integers in a file."""
        return 4 if self.bits <= 4 else 8

    def _quantize(self, kernel):
        limit = ops.stop_gradient(self.limit(kernel))
        kernel = quantize_kernel(
            kernel,
            limit,
            axis=self.axis,
            bits=self.bits,
            has_gradient=self.constant is None,
        )
        return self._as_in_file(kernel, limit)

    def _as_in_file(self, kernel, limit):
        are_multiples = (2 ** (self.bits_in_file - 1) - 1) % self.largest == 0
        if are_multiples or self.constant:  # the converter rounds them itself
            return kernel
        return quantize_kernel(kernel, limit, axis=self.axis, bits=self.bits_in_file)

    def limit(self, kernel: Any) -> Any:
        """Return the largest magnitude: a tensor of one element, or of one per channel.

        A channel of zeros gets the magnitude of the whole kernel: a bias divided by a
        range of 0 does not fit the integers of a file.
        """
        magnitude = ops.abs(ops.cast(kernel, "float32"))
        largest = ops.max(magnitude)
        if self.axis is None:
            return ops.maximum(largest, SMALLEST_KERNEL_RANGE)
        axis = self.axis % len(kernel.shape)
        others = [i for i in range(len(kernel.shape)) if i != axis]
        limit = ops.max(magnitude, axis=others)
        return ops.maximum(ops.where(limit > 0, limit, largest), SMALLEST_KERNEL_RANGE)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "axis": self.axis, "bits": self.bits}


@serializable()
class LearnedKernelQuantizer(LearnedStep, KernelQuantizer):
    """Round a kernel to integers whose step sizes are trained with the weights.

    `initialize_step` sets the first step sizes. Arguments are those of
    `KernelQuantizer`.

    Reference: Esser et al. 2020, "Learned Step Size Quantization".
    """

    def build(self, input_shape: Any = None) -> None:
        super().build(input_shape)
        shape = () if self.axis is None else (input_shape[self.axis],)
        self.initial = self.add_float("initial", shape)
        self.step = self._add_learned("step", shape)

    def reset(self) -> None:
        super().reset()
        self.initial.assign(ops.zeros_like(self.initial))
        self.step.assign(ops.zeros_like(self.step))

    def initialize_step(self, kernel: Any) -> None:
        """Set the first step sizes by a kernel, unless they are set already."""
        if not ops.convert_to_numpy(self.initial).any():
            self.initial.assign(ops.convert_to_numpy(self._first_limit(kernel)))

    def call(self, kernel: Any) -> Any:
        if self.constant is not None:
            return super().call(kernel)
        return cond(
            read(self.active),
            lambda: self._round(kernel),
            lambda: add_dependence(kernel, self.step),
        )

    def _first_limit(self, kernel):
        """Return the largest magnitude or, if less, the limit of Esser et al. 2020."""
        kernel = ops.cast(kernel, "float32")
        axes = [i for i in range(len(kernel.shape)) if i != self._axis_of(kernel)]
        mean = ops.mean(ops.abs(kernel), axis=axes)
        share = ops.mean(ops.cast(kernel != 0, "float32"), axis=axes)
        # Their first step size is 2 * mean / sqrt(largest), without masked weights.
        of_mean = 2 * math.sqrt(self.largest) * mean / ops.maximum(share, 1e-6)
        largest = super().limit(kernel)
        return ops.where(mean > 0, ops.minimum(of_mean, largest), largest)

    def _axis_of(self, kernel):
        return None if self.axis is None else self.axis % len(kernel.shape)

    def make_constant(self, *, keep: bool = True) -> None:
        super().make_constant(keep=keep)
        limits = ops.multiply(self.initial, ops.exp(self.step))
        self.constant_limits = np.array(ops.convert_to_numpy(limits))

    def limit(self, kernel: Any, factor: Any = 1.0) -> Any:
        if self.constant and self.constant_limits.all():  # the converter needs numbers
            return ops.convert_to_tensor(
                np.maximum(self.constant_limits, SMALLEST_KERNEL_RANGE)
            )
        log = scale_gradient(self.step, factor)
        initial = self._initial_limit(kernel)
        return ops.maximum(initial * ops.exp(log), SMALLEST_KERNEL_RANGE)

    def _initial_limit(self, kernel):
        initial = read(self.initial)
        return ops.where(initial > 0, initial, super().limit(kernel))

    def _round(self, kernel):
        values = ops.cast(kernel, "float32")
        initial = ops.stop_gradient(self._initial_limit(values))
        count = math.prod(kernel.shape) / math.prod(self.step.shape)
        factor = gradient_scale(initial / self.largest, count, self.largest)
        limit = self.limit(values, factor)
        step = limit / self.largest
        if self.axis is not None:
            shape = [1] * len(kernel.shape)
            shape[self.axis] = -1
            step = ops.reshape(step, shape)
        rounded = round_to_steps(values, step, -self.largest, self.largest)
        rounded = self._as_in_file(rounded, ops.stop_gradient(limit))
        return ops.cast(rounded, kernel.dtype)
