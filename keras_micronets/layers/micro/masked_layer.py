"""Base class of the micro layers that have kernels: masks, and effective kernels."""

from typing import Any

import keras
from keras import ops

from keras_micronets.layers.graph import earlier_calls
from keras_micronets.layers.layout import layout_of
from keras_micronets.layers.litert.capabilities import LAYERS, KernelRow
from keras_micronets.layers.litert.integer_operations import Accumulator
from keras_micronets.layers.micro.micro_layer import MicroLayer
from keras_micronets.layers.state import Mask, refusal

__all__ = ["MaskedLayer"]


class MaskedLayer(MicroLayer):
    """Base class of the micro layers with kernels.

    They compute with the effective kernel, `fake_quant(mask * kernel)`. The raw kernel
    is the variable that Keras trains and saves.
    """

    keras_class: type
    kernel_names: tuple[str, ...]
    # A function of (name, kernel) while `kernel_gradients` runs.
    probe: Any = None

    def build_state(self) -> None:
        for name in self.kernel_names:
            shape = self.kernel_variable(name).shape
            self.add_nested(f"{name}_mask", Mask, shape)
            if self.quantizers.kernel:
                self.add_nested(
                    f"{name}_quantizer",
                    self.scheme.kernel_quantizer,
                    self.to_litert(name, ops.zeros(shape)).shape,
                    axis=self.quantization_axis(name),
                    min_bits=self.kernel_row(name).min_bits,
                )
        super().build_state()

    def enable_lora(self, *args: Any, **kwargs: Any) -> None:
        """Raise an error: `strip` the model, and `prepare` it afterwards if wanted."""
        raise ValueError(refusal("enable_lora", f"{self.name!r}"))

    def kernel_variable(self, name: str) -> keras.Variable:
        """Return the variable of a raw kernel, which trains and is saved."""
        return getattr(self, name)

    def kernel_row(self, name: str) -> KernelRow:
        """Return the row of a kernel in the table of LiteRT's capabilities."""
        return LAYERS[self.keras_class].kernels[name]

    def quantization_axis(self, name: str) -> int | None:
        """Return the axis of a kernel with a scale for each index, or `None`."""
        row = self.kernel_row(name)
        return row.normalized_axis if self.quantizers.per_unit else row.axis

    def masked_kernel(self, name: str = "kernel") -> Any:
        """Return a kernel with its mask applied, not quantised."""
        mask = getattr(self, f"{name}_mask")
        return mask(ops.convert_to_tensor(self.kernel_variable(name)))

    def litert_kernel(self, name: str = "kernel") -> Any:
        """Return an effective kernel in LiteRT's layout."""
        kernel = ops.cast(self.masked_kernel(name), self.compute_dtype)
        if self.probe is not None:
            kernel = self.probe(name, kernel)
        kernel = self.to_litert(name, kernel)
        quantizer = getattr(self, f"{name}_quantizer", None)
        if quantizer is None:
            return kernel
        if not quantizer.constant or quantizer.axis is not None:
            return quantizer(kernel)
        # The converter gives a kernel that several operations read a scale for each
        # unit, and rounds it again. Those of unlike shapes are separate kernels.
        flat = ops.reshape(kernel, (1,) * earlier_calls(self) + tuple(kernel.shape))
        return ops.reshape(quantizer(flat), kernel.shape)

    def to_litert(self, name: str, kernel: Any) -> Any:
        """Reshape a kernel to LiteRT's layout, in which it is quantised."""
        return kernel

    def kernel_accumulator(self, name: str, input_quantizer: Any) -> Accumulator | None:
        """Return LiteRT's accumulator of products with a kernel.

        Args:
            name: Name of the kernel.
            input_quantizer: The `ActivationQuantizer` of the inputs. Without it, or
                without kernel quantisers, LiteRT computes in float: `None` is returned.
        """
        if input_quantizer is None or not self.quantizers.kernel:
            return None
        quantizer = getattr(self, f"{name}_quantizer")

        def limit():
            return quantizer.limit(self.to_litert(name, self.masked_kernel(name)))

        bits = quantizer.bits_in_file
        halves = self._second_rounding(name) if bits == 4 else None
        return Accumulator(input_quantizer, limit, bits, halves)

    def _second_rounding(self, name):
        axis, n_inputs = self.quantization_axis(name), layout_of(self, name).shape[-2]
        return self.kernel_row(name).second_rounding(axis, n_inputs)

    def effective_kernel(self, name: str = "kernel") -> Any:
        """Return a kernel as the layer computes with it: masked and quantised."""
        return ops.reshape(self.litert_kernel(name), self.kernel_variable(name).shape)
