"""Micro layers: Keras layers with fake quantisers on inputs and outputs."""

import functools
import weakref
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_micronets import _keras_private
from keras_micronets._serialization import serializable
from keras_micronets.layers.graph import begin_call, call_number
from keras_micronets.layers.litert.capabilities import (
    ACTIVATIONS,
    LAYERS,
    UNKNOWN,
    activation_of,
    activation_row,
    plain_class,
)
from keras_micronets.layers.litert.float_islands import kept_in_float
from keras_micronets.layers.litert.hard_swish import HardSwish
from keras_micronets.layers.litert.integer_operations import (
    difference_of,
    leaky_of,
    product_of,
    rectified,
)
from keras_micronets.layers.litert.provenance import quantizer_of, tag
from keras_micronets.layers.micro.precision import device_precision
from keras_micronets.layers.quantizers.scheme import (
    QuantizationScheme,
    QuantizerSpec,
    as_quantizer_spec,
    call_prefix,
)
from keras_micronets.layers.quantizers.shared_range import share_ranges, unite
from keras_micronets.layers.state import State, refusal

__all__ = [
    "MICRO_LAYERS",
    "MicroLayer",
    "is_micro_layer",
    "make_micro_class",
    "micro_class",
    "micro_class_of",
]

# The micro layer of each Keras class in LiteRT's table, and of normalisations without
# a row.
MICRO_LAYERS: dict[type, type] = {}

LEAKY_SLOPE = 0.2  # of `keras.activations.leaky_relu`
# Functions of an input and its gate, and their integer operations.
_COMBINATIONS = {
    "product": (ops.multiply, product_of),
    "difference": (ops.subtract, difference_of),
}


def micro_class(base: type) -> Callable[[type], type]:
    """Return a decorator that registers a class as the micro layer of a Keras layer.

    Keras keys weight files by the name of a layer's class. A micro layer has the plain
    layer's name, so that each loads the other's files.
    """

    def register(cls):
        serializable(name=f"Micro{base.__name__}")(cls)
        cls.keras_class, cls.__name__ = base, base.__name__
        cls.kernel_names = tuple(LAYERS.get(base, UNKNOWN).kernels)
        MICRO_LAYERS[base] = cls
        return cls

    return register


def micro_class_of(operation: Any) -> type | None:
    """Return the micro layer's class for a layer or operation; `None` without one."""
    cls = plain_class(operation)
    return MICRO_LAYERS.get(cls if issubclass(cls, keras.Layer) else keras.Operation)


def is_micro_layer(layer: Any) -> bool:
    """Return whether a layer is a micro layer."""
    return type(layer) is micro_class_of(layer)


class MicroLayer(keras.layers.Layer):
    """Base class of the micro layers, before the plain Keras layer among their bases.

    Args:
        quantizers: A `QuantizerSpec`, or its configuration; `None` for no quantisers.
            Defaults to `None`.
        scheme: A `QuantizationScheme`, or its configuration; `None` for 8 bits and
            moving averages. Defaults to `None`.
    """

    quantizers = QuantizerSpec()
    scheme = QuantizationScheme()
    output_quantizer: Any
    # Whether the names of the layers inside are unique within this layer only.
    names_its_parts = False

    def __init__(
        self, *args: Any, quantizers: Any = None, scheme: Any = None, **kwargs: Any
    ):
        super().__init__(*args, **kwargs)
        self.quantizers = as_quantizer_spec(quantizers)
        if scheme is not None:
            self.scheme = keras.saving.deserialize_keras_object(scheme)
        if self.built:  # Keras builds layers without weights in their constructor
            self.extend(QuantizerSpec())

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        self.build_state()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        share_ranges(begin_call(self))
        with device_precision(self, kwargs.get("training")):
            return super().__call__(*args, **kwargs)

    def extend(self, quantizers: QuantizerSpec) -> None:
        """Add quantisers, and all state that is missing, to a built layer.

        The layer may have been a plain one, which `training` was not passed to.
        """
        _keras_private.inspect_call(self)
        self.quantizers |= quantizers
        with _keras_private.unlocked(self):
            self.build_state()

    def build_state(self) -> None:
        """Add the nested layers for `quantizers` that are missing."""
        for number, call in enumerate(self.quantizers.calls):
            for tensor in call.tensors:
                self.add_quantizer(tensor, number)

    def add_quantizer(self, tensor: str, number: int = 0) -> None:
        """Add the quantiser of an input, output or intermediate tensor, if missing.

        Args:
            tensor: Name of the tensor, as `"output"`.
            number: Number of the call that it belongs to. Defaults to 0.
        """
        fixed_range = activation_row(self.activation_within(tensor)).fixed_range
        make, name = self.scheme.activation_quantizer, call_prefix(number) + tensor
        self.add_nested(f"{name}_quantizer", make, fixed_range=fixed_range)

    def output_tensor(self, index: int) -> str:
        """Return the name of the tensor that is an output of the layer."""
        return "output"

    def activation_within(self, tensor: str) -> Any:
        """Return the activation function that makes a tensor, or `None`."""
        activation, softmax = activation_of(self), keras.activations.softmax
        gate = activation_row(activation).gate
        made = {"output": activation, "gate": gate, "probabilities": softmax}
        return made.get(tensor)

    def add_nested(self, name: str, make: Any, shape: Any = (), **kwargs: Any) -> None:
        """Build a nested layer under this layer's name, if it is missing.

        Args:
            name: Name of the layer, and of the attribute that holds it.
            make: Class, or function with the keyword arguments of a layer.
            shape: Shape to build it with.
        """
        if not hasattr(self, name):
            layer = make(name=name, dtype=self.dtype_policy, **kwargs)
            with _keras_private.name_scope(self):
                layer.build(shape)
            setattr(self, name, layer)

    def nested_states(self) -> dict[str, State]:
        """Return the nested layers that hold masks and quantisers, by name."""
        nested = _keras_private.flatten_layers(self)
        return {layer.name: layer for layer in nested if isinstance(layer, State)}

    def quantizer(self, tensor: str, number: int | None = None) -> Any:
        """Return the quantiser of a tensor, `None` if there is none.

        Args:
            tensor: Name of the tensor, as `"output"`.
            number: Number of the call; `None` for the present call. Defaults to `None`.
                If it is unknown which call that is, the quantiser of one of them is
                returned, which then rounds within the ranges of all.
        """
        n_calls = len(self.quantizers.later) + 1
        number = call_number(self, n_calls) if number is None else number
        if number is not None:
            return getattr(self, f"{call_prefix(number)}{tensor}_quantizer", None)
        every = (self.quantizer(tensor, number) for number in range(n_calls))
        return unite([one for one in every if one is not None])

    def fake_quantize(self, tensor: str, value: Any) -> Any:
        """Round a tensor by its quantiser for the present call, if there is one."""
        quantizer = self.quantizer(tensor)
        return value if quantizer is None else quantizer(value)

    def activate(self, inputs: Any, activation: Callable | None) -> Any:
        """Apply an activation, then the quantiser of the output if there is one."""
        output = self.quantizer("output")
        if output is not None and activation is keras.activations.relu:
            return output(inputs, rectify=True)
        row, quantizer = activation_row(activation), quantizer_of(inputs)
        if row.gate is not None and self.quantizer("gate") is not None:
            return self.fake_quantize("output", self._gated(inputs, row))
        if activation not in ACTIVATIONS:
            inputs = kept_in_float(inputs)
        outputs = inputs if activation is None else activation(inputs)
        if row.fused:
            tag(outputs, rectified(inputs, row.limit, row.least))
        elif row.rounding == "leaky":
            tag(outputs, leaky_of(inputs, LEAKY_SLOPE))
        elif row.rounding == "hard_swish" and quantizer is not None:
            tag(outputs, HardSwish(weakref.ref(inputs), quantizer))
        return self.fake_quantize("output", outputs)

    def _gated(self, inputs, row):
        combine, operation = _COMBINATIONS[row.rounding]
        gate = self.fake_quantize("gate", row.gate(inputs))
        return tag(combine(inputs, gate), operation(inputs, gate))

    def quantize_inputs(self, inputs: Any) -> Any:
        """Round the inputs that have a quantiser, unless another one rounded them.

        The calls of a shared layer may differ: in one the preceding layer has rounded
        the input, in another it has not.
        """
        flat = enumerate(keras.tree.flatten(inputs))
        quantized = [
            tensor
            if quantizer_of(tensor) is not None
            else self.fake_quantize(f"input_{i}", tensor)
            for i, tensor in flat
        ]
        return keras.tree.pack_sequence_as(inputs, quantized)

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Raise an error: Keras would replace the kernel that the mask belongs to."""
        raise ValueError(refusal("quantize", f"{self.name!r}"))

    def set_weights(self, weights: Any) -> None:
        """Set the weights, those of masks and quantisers too, from a list of arrays."""
        if len(weights) != len(self.weights):
            raise ValueError(
                f"Expected {len(self.weights)} arrays for {self.name!r}, which is "
                "prepared and has masks or quantisers. Received: "
                f"{len(weights)}. Assign the weights of a plain layer to those that "
                "`keras_micronets.layers.plain_weights(layer)` returns."
            )
        super().set_weights(weights)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.state_config()}

    def state_config(self) -> dict[str, Any]:
        """Return the arguments that the plain layer's constructor does not have."""
        return {
            "quantizers": keras.saving.serialize_keras_object(self.quantizers),
            "scheme": keras.saving.serialize_keras_object(self.scheme),
        }


def make_micro_class(
    base: type[keras.Layer], compute_outputs: Callable, doc: str
) -> type[keras.Layer]:
    """Return the registered micro layer of a Keras layer without kernels.

    Args:
        base: The Keras layer's class.
        compute_outputs: Function of the layer, its rounded inputs and the other
            arguments, that computes the outputs.
        doc: Docstring.
    """

    @functools.wraps(base.call)  # Keras reads the names of the arguments
    def call(self, inputs, *args, **kwargs):
        return compute_outputs(self, self.quantize_inputs(inputs), *args, **kwargs)

    body = {"call": call, "__doc__": doc, "__module__": __name__}
    return micro_class(base)(type(f"Micro{base.__name__}", (MicroLayer, base), body))
