"""Fake quantiser of kernels."""

from typing import Any

from keras import ops

from keras_micronets._backend import cond, read
from keras_micronets._serialization import serializable
from keras_micronets.layers.litert.fake_quant import quantize_kernel
from keras_micronets.layers.state import Quantizer

__all__ = ["SMALLEST_KERNEL_RANGE", "KernelQuantizer"]

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
        kernel = quantize_kernel(kernel, limit, axis=self.axis, bits=self.bits)
        return self._as_in_file(kernel, limit)

    def _as_in_file(self, kernel, limit):
        are_multiples = (2 ** (self.bits_in_file - 1) - 1) % self.largest == 0
        if are_multiples or self.constant:  # the converter rounds them itself
            return kernel
        return quantize_kernel(kernel, limit, axis=self.axis, bits=self.bits_in_file)

    def limit(self, kernel: Any) -> Any:
        """Return the largest magnitude: a tensor of one element, or of one a channel.

        A channel of zeros gets that of the whole kernel: a bias divided by a range of 0
        does not fit the integers of a file.
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
