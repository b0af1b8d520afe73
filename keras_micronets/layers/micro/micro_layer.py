import weakref

import keras
from keras import ops

from keras_micronets import _keras_private
from keras_micronets.layers.litert.arithmetic import Products, rectified
from keras_micronets.layers.litert.hard_swish import HardSwished
from keras_micronets.layers.litert.provenance import grid_of, mark, sums_of
from keras_micronets.layers.quantizers.scheme import (
    QuantizationScheme,
    QuantizerSpec,
    as_quantizer_spec,
)
from keras_micronets.layers.quantizers.shared_range import join_read
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


class MicroLayer:
    """Mixin: a Keras layer whose inputs and outputs may pass fake quantisers.

    Args:
        quantizers: A `QuantizerSpec`, which says which tensors have a fake quantiser,
            or its configuration as Keras saves it; `None` for no quantisers. Defaults
            to `None`.
        scheme: A `QuantizationScheme`, or its configuration as Keras saves it; `None`
            for 8 bits and moving averages. Defaults to `None`.
    """

    quantizers = QuantizerSpec()
    scheme = QuantizationScheme()

    def __init__(self, *args, quantizers=None, scheme=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.quantizers = as_quantizer_spec(quantizers)
        if scheme is not None:
            self.scheme = keras.saving.deserialize_keras_object(scheme)
        if self.built:  # Keras builds layers without weights in their constructor
            self.extend(QuantizerSpec())

    def build(self, input_shape):
        super().build(input_shape)
        self.build_state()

    def symbolic_call(self, *args, **kwargs):
        """Join ranges again where a model is loaded or copied, layer after layer."""
        flat = keras.tree.flatten((args, kwargs))
        join_read(self, [x for x in flat if isinstance(x, keras.KerasTensor)])
        return super().symbolic_call(*args, **kwargs)

    def extend(self, quantizers: QuantizerSpec) -> None:
        """Add quantisers, and all state that is missing, to a built layer."""
        self.quantizers |= quantizers
        with _keras_private.unlocked(self):
            self.build_state()

    def build_state(self) -> None:
        """Add the nested layers that `quantizers` asks for and are not there yet."""
        for name in self.quantizers.names:
            if name != "kernel":
                self.add_quantizer(name)

    def add_quantizer(self, name: str) -> None:
        """Add the quantiser of a tensor that is no kernel, unless it is there."""
        if not hasattr(self, f"{name}_quantizer"):
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
        if self.quantizers.output and activation is keras.activations.relu:
            return self.output_quantizer(inputs, rectify=True)
        if self.quantizers.gate:
            return self.fake_quantize("output", self._gated(inputs))
        outputs = inputs if activation is None else activation(inputs)
        if activation in FUSED_ACTIVATIONS:
            limit = 6.0 if activation is keras.activations.relu6 else None
            mark(outputs, rectified(sums_of(inputs), limit))
        elif activation is keras.activations.hard_silu and grid_of(inputs) is not None:
            mark(outputs, HardSwished(weakref.ref(inputs), grid_of(inputs)))
        return self.fake_quantize("output", outputs)

    def _gated(self, inputs):
        gate = self.fake_quantize("gate", keras.activations.sigmoid(inputs))
        return mark(ops.multiply(inputs, gate), products(inputs, gate))

    def quantize_inputs(self, inputs):
        """Round those inputs that have a quantiser, unless another one rounded them.

        At one call of a shared layer an input may be rounded where it is made, and
        at another call not.
        """
        flat = enumerate(keras.tree.flatten(inputs))
        quantized = [
            tensor
            if grid_of(tensor) is not None
            else self.fake_quantize(f"input_{i}", tensor)
            for i, tensor in flat
        ]
        return keras.tree.pack_sequence_as(inputs, quantized)

    def get_config(self):
        return {
            **super().get_config(),
            "quantizers": keras.saving.serialize_keras_object(self.quantizers),
            "scheme": keras.saving.serialize_keras_object(self.scheme),
        }


def products(first, second):
    """Return the `Products` of two tensors if quantisers rounded both, or `None`."""
    grids = grid_of(first), grid_of(second)
    return None if None in grids else Products(*grids)
