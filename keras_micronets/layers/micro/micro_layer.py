import weakref

import keras
from keras import ops

from keras_micronets import _keras_private
from keras_micronets.layers.litert.capabilities import (
    LAYERS,
    activation_of,
    activation_row,
    plain_class,
)
from keras_micronets.layers.litert.hard_swish import HardSwish
from keras_micronets.layers.litert.integer_operations import product_of, rectified
from keras_micronets.layers.litert.provenance import quantizer_of, tag
from keras_micronets.layers.quantizers.scheme import (
    QuantizationScheme,
    QuantizerSpec,
    as_quantizer_spec,
)
from keras_micronets.layers.quantizers.shared_range import share_range_read
from keras_micronets.layers.state import State

# The micro layer of each Keras class in LiteRT's table.
MICRO_LAYERS: dict[type, type] = {}


def micro_class(base):
    """Register a class as the micro layer of a Keras layer.

    Keras keys weight files by the name of a layer's class. A micro layer has the plain
    layer's name, so that each loads the other's files.
    """

    def register(cls):
        name = f"Micro{base.__name__}"
        keras.saving.register_keras_serializable("keras_micronets", name)(cls)
        cls.keras_class, cls.__name__ = base, base.__name__
        cls.kernel_names = tuple(LAYERS[base].kernels)
        MICRO_LAYERS[base] = cls
        return cls

    return register


def is_micro_layer(layer) -> bool:
    """Return whether a layer is a micro layer already."""
    return type(layer) is MICRO_LAYERS.get(plain_class(layer))


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
        share_range_read(self, [x for x in flat if isinstance(x, keras.KerasTensor)])
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
        made = {"output": activation_of(self), "gate": keras.activations.sigmoid}
        return self.scheme.activation_quantizer(
            fixed_range=activation_row(made.get(name)).fixed_range,
            name=f"{name}_quantizer",
            dtype=self.dtype_policy,
        )

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
        row, quantizer = activation_row(activation), quantizer_of(inputs)
        if row.fused:
            tag(outputs, rectified(inputs, row.limit))
        elif row.rounding == "hard_swish" and quantizer is not None:
            tag(outputs, HardSwish(weakref.ref(inputs), quantizer))
        return self.fake_quantize("output", outputs)

    def _gated(self, inputs):
        gate = self.fake_quantize("gate", keras.activations.sigmoid(inputs))
        return tag(ops.multiply(inputs, gate), product_of(inputs, gate))

    def quantize_inputs(self, inputs):
        """Round those inputs that have a quantiser, unless another one rounded them.

        At one call of a shared layer an input may be rounded where it is made, and
        at another call not.
        """
        flat = enumerate(keras.tree.flatten(inputs))
        quantized = [
            tensor
            if quantizer_of(tensor) is not None
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
