import keras
from keras import ops

from keras_micronets.layers.fake_quant import quantize_kernel
from keras_micronets.layers.state import Quantizer, choose, read

# Why so large: see SMALLEST_RANGE of the activations.
SMALLEST_RANGE = 4e-3


@keras.saving.register_keras_serializable(package="keras_micronets")
class KernelQuantizer(Quantizer):
    """Round a kernel to the integers that an exported file will hold.

    Symmetric, zero at zero, in the narrow range [-127, 127] for 8 bits. The range
    is the largest magnitude of the kernel itself, so nothing has to be learned
    and zeros stay zero. Gradients pass straight through (Jacob et al. 2018,
    "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference"). Does nothing until `active` is set.

    Args:
        axis: Integer, the axis with a scale for each index, or `None` for one
            scale a tensor. Defaults to `None`.
        bits: Integer from 2 to 8. Defaults to `8`.

    Call arguments:
        kernel: Float tensor.
        share: Tensor with an element for each index of the last axis, by which the
            kernel is multiplied within the range that it has without. Defaults to
            `None`.
    """

    def __init__(self, *, axis: int | None = None, bits: int = 8, **kwargs):
        super().__init__(**kwargs)
        self.axis = axis
        self.bits = bits

    def call(self, kernel, share=None):
        def on():
            return self._quantize(kernel, share)

        def off():
            return times(kernel, share)

        if self.frozen is not None:
            return on() if self.frozen else off()
        return choose(read(self.active), on, off)

    @property
    def largest(self):
        """The largest integer."""
        return 2 ** (self.bits - 1) - 1

    def _quantize(self, kernel, share):
        limit = ops.stop_gradient(self.limit(kernel))
        kernel = times(kernel, share)
        return quantize_kernel(kernel, limit, axis=self.axis, bits=self.bits)

    def limit(self, kernel):
        """Return the largest magnitude; a channel of zeros takes that of the others.

        A range of its own would be nothing, and a bias divided by nothing does
        not fit the integers of a file.
        """
        magnitude = ops.abs(ops.cast(kernel, "float32"))
        largest = ops.max(magnitude)
        if self.axis is None:
            return ops.maximum(largest, SMALLEST_RANGE)
        axis = self.axis % len(kernel.shape)
        others = [i for i in range(len(kernel.shape)) if i != axis]
        limit = ops.max(magnitude, axis=others)
        return ops.maximum(ops.where(limit > 0, limit, largest), SMALLEST_RANGE)

    def get_config(self):
        return {**super().get_config(), "axis": self.axis, "bits": self.bits}


def times(kernel, share):
    """Multiply the channels of a kernel, along its last axis, by shares, if any."""
    if share is None:
        return kernel
    return ops.multiply(kernel, ops.cast(share, kernel.dtype))
