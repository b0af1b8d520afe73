"""Micro layers whose kernels are those of layers inside: attention, two directions."""

from contextlib import ExitStack
from typing import Any

import keras
from keras import ops

from keras_micronets import _keras_private
from keras_micronets.layers.litert.float_islands import kept_in_float
from keras_micronets.layers.litert.integer_operations import (
    matrix_product_of,
    product_of,
)
from keras_micronets.layers.litert.provenance import quantizer_of, tag, tag_moved
from keras_micronets.layers.micro.micro_layer import (
    MICRO_LAYERS,
    MicroLayer,
    is_micro_layer,
    micro_class,
)
from keras_micronets.layers.micro.recurrent import MicroRecurrent, MicroSteps
from keras_micronets.layers.quantizers.observers import LearnedStepSize
from keras_micronets.layers.quantizers.shared_range import share_range
from keras_micronets.layers.state import State

__all__ = [
    "MicroAttention",
    "MicroBidirectional",
    "MicroComposite",
    "MicroGroupQueryAttention",
    "MicroMultiHeadAttention",
]


MARGIN = 8.0  # a probability below half of its smallest integer
LARGE_NEGATIVE = -1e9


class MicroComposite(MicroLayer):
    """Base class of the micro layers whose masks belong to micro layers inside."""

    def nested_states(self) -> dict[str, State]:
        direct = _keras_private.flatten_layers(self, lambda layer: layer is self)
        return {layer.name: layer for layer in direct if isinstance(layer, State)}


@micro_class(keras.layers.Bidirectional)
class MicroBidirectional(MicroComposite, keras.layers.Bidirectional):
    """A `Bidirectional` layer of two recurrent layers with masks and quantisers.

    The outputs of both directions share one range, since LiteRT concatenates integers
    of one range; with learned step sizes, which cannot be shared, they are rounded once
    more. Without quantisers, Keras may compute both in one fused operation that reads
    the two cells.
    """

    @property
    def directions(self) -> tuple[keras.layers.Layer, keras.layers.Layer]:
        """The two recurrent layers."""
        return self.forward_layer, self.backward_layer

    def build(self, sequences_shape: Any, initial_state_shape: Any = None) -> None:
        super().build(sequences_shape)

    @property
    def _shares(self):
        return not isinstance(self.scheme.observer, LearnedStepSize)

    def add_quantizer(self, tensor: str, number: int = 0) -> None:
        if tensor != "output" or not self._shares:
            super().add_quantizer(tensor, number)

    def quantizer(self, tensor: str, number: int | None = None) -> Any:
        if tensor != "output" or not self._shares:
            return super().quantizer(tensor, number)
        if not (self.quantizers.output and isinstance(self.forward_layer, MicroSteps)):
            return None
        return self.forward_layer.quantizer("output", number)

    def share_ranges(self) -> None:
        """Let the outputs of both directions share one range."""
        if self.built and self.quantizers.output and self._shares:
            for number in range(len(self.quantizers.calls)):
                share_range([x.quantizer("output", number) for x in self.directions])

    def call(
        self,
        sequences: Any,
        initial_state: Any = None,
        mask: Any = None,
        training: bool | None = None,
    ) -> Any:
        given = keras.tree.flatten([initial_state, mask])
        quantizer = self.quantizer("output")
        if quantizer is not None and all(one is None for one in given):
            return self._join(self.quantize_inputs(sequences), quantizer, training)
        with ExitStack() as stack:
            for layer in self.directions:
                if isinstance(layer, MicroRecurrent):
                    stack.enter_context(layer.masked_cell())
            return super().call(
                sequences, initial_state=initial_state, mask=mask, training=training
            )

    def _join(self, sequences, quantizer, training):
        first, second = (one(sequences, training=training) for one in self.directions)
        if self.return_sequences:
            second = ops.flip(second, axis=1)
        outputs = ops.concatenate([first, second], axis=-1)
        return tag_moved(outputs, quantizer) if self._shares else quantizer(outputs)


class MicroAttention(MicroComposite):
    """Base class of the attention layers, whose projections are micro layers.

    Between them, LiteRT multiplies integers, and the softmax of the scores has integers
    too. Fake quantisers round the scaled query, the scores and the probabilities.

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
        self.build_state()

    def nested_states(self) -> dict[str, State]:
        found = [self.quantizer(name) for name in self.quantizers.tensors]
        return {quantizer.name: quantizer for quantizer in found}

    def _compute_attention(
        self, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any
    ) -> Any:
        if self.quantizer("scores") is not None:
            return self._attend(query, key, value, *args, **kwargs)
        tensors = kept_in_float((query, key, value))
        return self.keras_class._compute_attention(self, *tensors, *args, **kwargs)

    def _attend(self, query, key, value, attention_mask=None, training=None, *_, **__):
        """Attend as Keras does, but round query, scores and probabilities."""
        for tensor, layer in ((key, self._key_dense), (value, self._value_dense)):
            if quantizer_of(tensor) is None:  # its heads were repeated
                tag(tensor, getattr(layer, "output_quantizer", None))
        factor = query.shape[-1] ** -0.5
        query = tag(ops.multiply(query, factor), product_of(query, factor))
        query = self.fake_quantize("scaled_query", query)
        scores = ops.einsum("btnh,bsnh->bnts", query, key)
        scores = tag(scores, matrix_product_of(query, key))
        scores = self._rounded_scores(scores, attention_mask, training)
        probabilities = keras.activations.softmax(scores)
        probabilities = self.fake_quantize("probabilities", probabilities)
        kept = self._dropout_layer(probabilities, training=training)
        outputs = ops.einsum("bnts,bsnh->btnh", kept, value)
        return tag(outputs, matrix_product_of(kept, value)), probabilities

    def _rounded_scores(self, scores, mask, training):
        """Round scores; those that are masked become the smallest integer.

        The range reaches so far below the scores that it stands for no attention.
        """
        quantizer: Any = self.quantizer("scores")
        if mask is None:
            return quantizer(scores)
        for _ in range(4 - len(mask.shape)):
            mask = ops.expand_dims(mask, -3)
        mask = ops.cast(mask, "bool")
        if training:
            least = ops.subtract(ops.min(ops.stop_gradient(scores)), MARGIN)
            scores = ops.where(mask, scores, ops.cast(least, scores.dtype))
        lower = ops.multiply(quantizer.scale(), quantizer.smallest())
        lower = ops.where(quantizer.is_on(), lower, LARGE_NEGATIVE)
        lower = ops.cast(lower, scores.dtype)
        scores = ops.where(mask, quantizer(scores), lower)
        if quantizer.constant:
            return quantizer(scores)
        return tag(scores, quantizer)

    def state_config(self) -> dict[str, Any]:
        parts = {
            layer.name: layer.state_config()
            for layer in _keras_private.flatten_layers(self)[1:]
            if is_micro_layer(layer)
        }
        return {**super().state_config(), "parts": parts or self._parts}


@micro_class(keras.layers.MultiHeadAttention)
class MicroMultiHeadAttention(MicroAttention, keras.layers.MultiHeadAttention):
    """A `MultiHeadAttention` layer with prunable projections, see `MicroAttention`."""


@micro_class(keras.layers.GroupQueryAttention)
class MicroGroupQueryAttention(MicroAttention, keras.layers.GroupQueryAttention):
    """A `GroupQueryAttention` layer with prunable projections, see `MicroAttention`."""
