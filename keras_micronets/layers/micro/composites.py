"""Micro layers whose kernels are those of layers inside: attention, two directions."""

from contextlib import ExitStack
from typing import Any

import keras

from keras_micronets import _keras_private
from keras_micronets.layers.micro.micro_layer import (
    MICRO_LAYERS,
    MicroLayer,
    is_micro_layer,
    micro_class,
)
from keras_micronets.layers.micro.recurrent import MicroRecurrent
from keras_micronets.layers.state import State

__all__ = [
    "MicroAttention",
    "MicroBidirectional",
    "MicroComposite",
    "MicroGroupQueryAttention",
    "MicroMultiHeadAttention",
]


class MicroComposite(MicroLayer):
    """Base class of the micro layers whose masks belong to micro layers inside."""

    def nested_states(self) -> dict[str, State]:
        return {}


@micro_class(keras.layers.Bidirectional)
class MicroBidirectional(MicroComposite, keras.layers.Bidirectional):
    """A `Bidirectional` layer of two recurrent layers with masks.

    Keras may compute both in one fused operation that reads the two cells.
    """

    def build(self, sequences_shape: Any, initial_state_shape: Any = None) -> None:
        super().build(sequences_shape)

    def call(
        self,
        sequences: Any,
        initial_state: Any = None,
        mask: Any = None,
        training: bool | None = None,
    ) -> Any:
        with ExitStack() as stack:
            for layer in (self.forward_layer, self.backward_layer):
                if isinstance(layer, MicroRecurrent):
                    stack.enter_context(layer.masked_cell())
            return super().call(
                sequences, initial_state=initial_state, mask=mask, training=training
            )


class MicroAttention(MicroComposite):
    """Base class of the attention layers, whose projections are micro layers.

    Keras makes the projections in `build`. The configuration has their quantisers, so
    that a loaded layer has the same masks and quantisers.

    Args:
        parts: Dictionary from the names of the projections to the arguments
            `quantizers` and `scheme` of a micro layer. `None` for plain projections.
            Defaults to `None`.
    """

    keras_class: type
    names_its_parts = True

    def __init__(self, *args: Any, parts: Any = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._parts = parts or {}

    def build(self, query_shape: Any, value_shape: Any, key_shape: Any = None) -> None:
        self.keras_class.build(self, query_shape, value_shape, key_shape)
        restore = keras.saving.deserialize_keras_object
        for layer in _keras_private.flatten_layers(self)[1:]:
            if layer.name in self._parts:
                state = self._parts[layer.name]
                layer.__class__ = MICRO_LAYERS[type(layer)]
                layer.scheme = restore(state["scheme"])
                layer.extend(restore(state["quantizers"]))

    def state_config(self) -> dict[str, Any]:
        parts = {
            layer.name: layer.state_config()
            for layer in _keras_private.flatten_layers(self)[1:]
            if is_micro_layer(layer)
        }
        return {**super().state_config(), "parts": parts or self._parts}


@micro_class(keras.layers.MultiHeadAttention)
class MicroMultiHeadAttention(MicroAttention, keras.layers.MultiHeadAttention):
    """A `MultiHeadAttention` layer with prunable projections."""


@micro_class(keras.layers.GroupQueryAttention)
class MicroGroupQueryAttention(MicroAttention, keras.layers.GroupQueryAttention):
    """A `GroupQueryAttention` layer with prunable projections."""
