from contextlib import contextmanager

from keras import ops

from keras_micronets.layers.device.source import grid_of, mark, round_to_step
from keras_micronets.layers.device.sums import Sums, half_up
from keras_micronets.layers.layout import layout_of
from keras_micronets.layers.mask import Mask
from keras_micronets.layers.twin import Twin


class KernelTwin(Twin):
    """Mixin: a Keras layer that reads its kernels through masks and quantisers.

    The forward pass computes with `fake_quant(mask * kernel)`. The raw kernel is
    what trains, and what is saved and loaded.

    Args:
        quantizers: Names of the tensors that have a fake quantiser: `"kernel"`
            (every kernel of the layer), `"output"`, `"input_0"`, and
            `"preactivation"` where the device computes the activation apart. With
            `"channels"`, a Dense layer's kernel has a scale for each unit. Defaults
            to `()`.

    While it does not train, a layer rounds its bias to the integers that the device
    adds, the step of which is that of the input times that of the kernel.
    """

    kernel_names = ("kernel",)
    least_bits = 2  # of a kernel that the device has
    reads_raw = False
    probe = None  # a function of (name, kernel) while `kernel_gradients` runs

    def build_state(self):
        for name in self.kernel_names:
            shape = self.raw(name).shape
            if not hasattr(self, f"{name}_mask"):
                mask = Mask(name=f"{name}_mask", dtype=self.dtype_policy)
                setattr(self, f"{name}_mask", self.build_nested(mask, shape))
            wanted = "kernel" in self.quantizers
            if wanted and not hasattr(self, f"{name}_quantizer"):
                shape = self.to_device(name, ops.zeros(shape)).shape
                quantizer = self.scheme.kernel_quantizer(
                    axis=self.quantization_axis(name),
                    least_bits=self.least_bits,
                    name=f"{name}_quantizer",
                    dtype=self.dtype_policy,
                )
                setattr(self, f"{name}_quantizer", self.build_nested(quantizer, shape))
        super().build_state()

    def quantization_axis(self, name):
        """The axis of a kernel that may have a scale for each index."""
        return

    def round_twice(self, name):
        """Return how the device rounds halves, where it rounds the sums twice.

        It does so behind kernels of 4 bits, unless XNNPACK computes them, as it does
        those of fully connected layers with an even number of inputs.
        """
        is_connected = self.quantization_axis(name) is None
        inputs = layout_of(self, name).shape[-2]
        return None if is_connected and inputs % 2 == 0 else half_up

    def raw(self, name="kernel"):
        """Return the variable of a kernel, before mask and quantiser."""
        with self._reading_raw():
            return getattr(self, name)

    def masked(self, name="kernel"):
        """Return a kernel with its mask applied, not quantised."""
        mask = getattr(self, f"{name}_mask")
        return mask(ops.convert_to_tensor(self.raw(name)))

    def device_kernel(self, name="kernel"):
        """Return a kernel as the forward pass reads it, in the device's layout."""
        kernel = self.masked(name)
        if self.probe is not None:
            kernel = self.probe(name, kernel)
        return self.fake_quantize(name, self.to_device(name, kernel))

    def to_device(self, name, kernel):
        """Reshape a kernel to the layout in which the device quantises it."""
        return kernel

    def effective(self, name="kernel"):
        """Return a kernel as the forward pass reads it, in its own shape."""
        return ops.reshape(self.device_kernel(name), self.raw(name).shape)

    def linear(self, inputs):
        """Apply the layer without its bias and activation."""
        raise NotImplementedError

    def call(self, inputs, training=None):
        inputs = self.quantize_inputs(inputs)
        outputs = self.linear(inputs)
        sums = self.sums(inputs)
        if self.bias is not None:
            bias = self.bias
            if sums is not None and not training:
                bias = round_to_step(bias, sums.scale(), sums.is_on())
            outputs = ops.add(outputs, self.shaped(bias))
        outputs = self.fake_quantize("preactivation", mark(outputs, sums))
        return self.activate(outputs, self.activation)

    def sums(self, inputs):
        """Return what the device knows of the sums that `linear` makes, or `None`."""
        return self._sums_of(self.kernel_names[-1], grid_of(inputs))

    def _sums_of(self, name, grid):
        if grid is None or "kernel" not in self.quantizers:
            return None
        quantizer = getattr(self, f"{name}_quantizer")

        def limit():
            return quantizer.limit(self.to_device(name, self.masked(name)))

        bits = quantizer.bits_in_file
        return Sums(grid, limit, bits, self.round_twice(name) if bits == 4 else None)

    def shaped(self, bias):
        if getattr(self, "data_format", None) == "channels_first":
            return ops.reshape(bias, (1, -1) + (1,) * self.rank)
        return bias

    def save_own_variables(self, store):
        with self._reading_raw():
            super().save_own_variables(store)

    @contextmanager
    def _reading_raw(self):
        before, self.reads_raw = self.reads_raw, True
        try:
            yield
        finally:
            self.reads_raw = before


class KernelPropertyTwin(KernelTwin):
    """Mixin for layers whose `kernel` is a property: it gives the effective one."""

    @property
    def kernel(self):
        return super().kernel if self.reads_raw else self.effective()
