import weakref
from contextlib import contextmanager

import keras
from keras import ops

from keras_micronets import _keras_private
from keras_micronets.layers.exact import HardSwished, Products, Sums
from keras_micronets.layers.mask import Mask
from keras_micronets.layers.quantization_scheme import QuantizationScheme
from keras_micronets.layers.source import grid_of, mark, round_to_step, sums_of
from keras_micronets.layers.state import State

# What LiteRT gives these operations, whatever the data.
FIXED_RANGES = {
    keras.activations.softmax: (0.0, 255 / 256),
    keras.activations.sigmoid: (0.0, 255 / 256),
    keras.activations.tanh: (-1.0, 127 / 128),
}
# Activations that LiteRT computes within the operation before them.
FUSED_ACTIVATIONS = (
    None,
    keras.activations.linear,
    keras.activations.relu,
    keras.activations.relu6,
)


class Twin:
    """Mixin: a Keras layer whose inputs and outputs may pass fake quantisers.

    Args:
        quantizers: Names of the tensors that have a fake quantiser: `"output"`,
            `"input_0"`, `"input_1"`, ... for the tensors that the layer reads.
            Defaults to `()`.
        scheme: A `QuantizationScheme`, or its configuration as Keras saves it; `None`
            for 8 bits and moving averages. Defaults to `None`.
    """

    scheme = QuantizationScheme()

    def __init__(self, *args, quantizers=(), scheme=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.quantizers = tuple(quantizers)
        if scheme is not None:
            self.scheme = keras.saving.deserialize_keras_object(scheme)
        if self.built:  # Keras builds layers without weights in their constructor
            self.extend(())

    def build(self, input_shape):
        super().build(input_shape)
        self.build_state()

    def extend(self, quantizers) -> None:
        """Add quantisers, and whatever state is missing, to a built layer."""
        self.quantizers = tuple(dict.fromkeys((*self.quantizers, *quantizers)))
        with _keras_private.unlocked(self):
            self.build_state()

    def build_state(self) -> None:
        """Add the nested layers that `quantizers` asks for and are not there yet."""
        for name in self.quantizers:
            of_tensor = name not in ("kernel", "channels")
            if of_tensor and not hasattr(self, f"{name}_quantizer"):
                quantizer = self.make_quantizer(name)
                setattr(self, f"{name}_quantizer", self.build_nested(quantizer))

    def states(self) -> dict:
        """Return the nested layers that hold masks and quantisers, by name."""
        nested = _keras_private.flatten_layers(self)
        return {layer.name: layer for layer in nested if isinstance(layer, State)}

    def build_nested(self, layer, shape=()):
        """Build a nested layer under this layer's name."""
        with _keras_private.name_scope(self):
            layer.build(shape)
        return layer

    def make_quantizer(self, name):
        made = {"output": self.output_activation, "gate": keras.activations.sigmoid}
        fixed = FIXED_RANGES.get(made.get(name))
        return self.scheme.activation_quantizer(
            fixed_range=fixed or None, name=f"{name}_quantizer", dtype=self.dtype_policy
        )

    @property
    def output_activation(self):
        """The activation function whose result leaves the layer, if it has one."""
        if isinstance(self, keras.layers.Softmax):
            return keras.activations.softmax
        return getattr(self, "activation", None)

    def fake_quantize(self, name, tensor):
        """Pass a tensor through the quantiser of that name, if there is one."""
        quantizer = getattr(self, f"{name}_quantizer", None)
        return tensor if quantizer is None else quantizer(tensor)

    def activate(self, inputs, activation):
        """Apply an activation, then the quantiser of the output if there is one."""
        if "output" in self.quantizers and activation is keras.activations.relu:
            return self.output_quantizer(inputs, rectify=True)
        if "gate" in self.quantizers:
            return self.fake_quantize("output", self._gated(inputs))
        outputs = inputs if activation is None else activation(inputs)
        if activation in FUSED_ACTIVATIONS:
            mark(outputs, sums_of(inputs))
        elif activation is keras.activations.hard_silu and grid_of(inputs) is not None:
            mark(outputs, HardSwished(weakref.ref(inputs), grid_of(inputs)))
        return self.fake_quantize("output", outputs)

    def _gated(self, inputs):
        gate = self.fake_quantize("gate", keras.activations.sigmoid(inputs))
        return mark(ops.multiply(inputs, gate), products(inputs, gate))

    def quantize_inputs(self, inputs):
        flat = enumerate(keras.tree.flatten(inputs))
        quantized = [self.fake_quantize(f"input_{i}", tensor) for i, tensor in flat]
        return keras.tree.pack_sequence_as(inputs, quantized)

    def get_config(self):
        return {
            **super().get_config(),
            "quantizers": list(self.quantizers),
            "scheme": keras.saving.serialize_keras_object(self.scheme),
        }


def products(first, second):
    """Return the `Products` of two tensors if quantisers rounded both, or `None`."""
    grids = grid_of(first), grid_of(second)
    return None if None in grids else Products(*grids)


class KernelTwin(Twin):
    """Mixin: a Keras layer that reads its kernels through masks and quantisers.

    The forward pass computes with `fake_quant(mask * kernel)`. The raw kernel is
    what trains, and what is saved and loaded.

    Args:
        quantizers: Names of the tensors that have a fake quantiser: `"kernel"`
            (every kernel of the layer), `"output"`, `"input_0"`, and
            `"preactivation"` where the device computes the activation apart.
            Defaults to `()`.

    While it does not train, a layer rounds its bias to the integers that the device
    adds, the step of which is that of the input times that of the kernel.
    """

    kernel_names = ("kernel",)
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
                    name=f"{name}_quantizer",
                    dtype=self.dtype_policy,
                )
                setattr(self, f"{name}_quantizer", self.build_nested(quantizer, shape))
        super().build_state()

    def quantization_axis(self, name):
        """The axis of a kernel that may have a scale for each index."""
        return

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

        return Sums(grid, limit, quantizer.largest)

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
