"""Rewrite models of `channels_first` data, since LiteRT has channels last only."""

from collections.abc import Callable
from typing import Any

import keras
from keras import layers

from keras_micronets import _keras_private
from keras_micronets.layers import quantized_share
from keras_micronets.layers.clone import as_not_compiled, copy_state
from keras_micronets.layers.litert.capabilities import plain_class
from keras_micronets.layers.micro.micro_layer import MICRO_LAYERS

__all__ = ["to_channels_last"]

#: Layers that treat all elements alike, and those that do so but along one axis.
_ELEMENTWISE = (
    *(layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Identity),
    *(layers.Add, layers.Subtract, layers.Multiply, layers.Average),
    *(layers.Maximum, layers.Minimum, layers.Dropout, layers.GaussianNoise),
    *(layers.GaussianDropout, layers.AlphaDropout, layers.ActivityRegularization),
)
_ALONG_AXIS = (
    *(layers.BatchNormalization, layers.LayerNormalization, layers.Softmax),
    *(layers.GroupNormalization, layers.Concatenate),
)
_NORMALIZATIONS = (layers.BatchNormalization, layers.GroupNormalization)
_OPERATIONS = (
    *_keras_private.operation_classes(
        *("Add", "Subtract", "Multiply", "Divide", "Maximum", "Minimum", "Negative"),
        *("Absolute", "Square", "Sqrt", "Exp", "Tanh", "Where", "Greater", "Less"),
    ).values(),
    *_keras_private.operation_classes(
        *("Relu", "Relu6", "LeakyRelu", "Sigmoid", "HardSigmoid", "Silu", "HardSilu"),
        *("Gelu", "Elu"),
        like=keras.ops.relu,
    ).values(),
)


def to_channels_last(model: keras.Model) -> keras.Model:
    """Return a model that computes the same with the channels on the last axis.

    Layers with `data_format="channels_first"` get the other format, and layers along an
    axis another axis. Masks and quantisers are kept. Inputs and outputs stay as they
    are: a `Permute` after the inputs moves the channels, and so does one around each
    layer that is not known to work in both layouts.

    Args:
        model: A functional or sequential model, prepared or not.

    Returns:
        A copy, or the model itself if all its layers have their channels last.
    """
    nested = _keras_private.flatten_layers(model)
    if not _keras_private.is_functional(model) or not any(map(_is_first, nested)):
        return model
    permute: Any = layers.Permute
    if quantized_share(model):
        permute = MICRO_LAYERS.get(permute, permute)
    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs, model.outputs, name=model.name)
    return _Converter(permute).convert(model)


class _Converter:
    """Copies a functional model, and knows in which tensors the channels moved."""

    def __init__(self, permute: Callable) -> None:
        self.permute = permute
        self.copies: dict[keras.layers.Layer, keras.layers.Layer] = {}
        self.changed: dict[Any, dict | None] = {}
        self.moved: dict[int, Any] = {}
        self.permuted: dict[int, tuple] = {}

    def convert(self, model: keras.Model) -> keras.Model:
        with as_not_compiled(model):
            copy = keras.models.clone_model(
                model, clone_function=lambda layer: layer, call_function=self.call
            )
        outputs = keras.tree.map_structure(self.to_first, copy.output)
        for source, target in self.copies.items():
            if not _keras_private.is_functional(source):
                copy_state(source, target)
        return keras.Model(copy.input, outputs, name=model.name)

    def call(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        if operation not in self.changed:  # a shared layer has one copy
            self.changed[operation] = self.changes(operation, args, kwargs)
        changed = self.changed[operation]
        arrange = self.to_first if changed is None else self.to_last
        args, kwargs = keras.tree.map_structure(
            lambda x: arrange(x) if _is_tensor(x) else x, (args, kwargs)
        )
        outputs = self.copy(operation, changed or {})(*args, **kwargs)
        if changed is not None:
            for tensor in keras.tree.flatten(outputs):
                if len(tensor.shape) > 2:
                    self.moved[id(tensor)] = tensor
        return outputs

    def changes(self, operation: Any, args: tuple, kwargs: dict) -> dict | None:
        """Return what changes in a layer that gets moved tensors, or `None`."""
        tensors = [x for x in keras.tree.flatten((args, kwargs)) if hasattr(x, "shape")]
        ranks = {len(tensor.shape) for tensor in tensors if len(tensor.shape)}
        if len(ranks) != 1 or min(ranks) < 3:
            return None
        if getattr(operation, "data_format", None) == "channels_first":
            return {"data_format": "channels_last"}
        cls, rank = plain_class(operation), ranks.pop()
        if not _is_first(operation) and not any(id(x) in self.moved for x in tensors):
            return None
        if cls in _ELEMENTWISE or issubclass(cls, _OPERATIONS):
            return {}
        axis = getattr(operation, "axis", None)
        axis = axis[0] if isinstance(axis, list | tuple) and len(axis) == 1 else axis
        if cls in _ALONG_AXIS and isinstance(axis, int):
            axis %= rank
            return {"axis": rank - 1 if axis == 1 else max(axis - 1, 0)}
        return None

    def copy(self, operation: Any, changed: dict) -> Any:
        if not isinstance(operation, keras.layers.Layer):
            return operation
        if operation not in self.copies:
            if _keras_private.is_functional(operation):
                copy = to_channels_last(operation)
            else:
                config = operation.get_config() | changed
                copy = type(operation).from_config(config)
            self.copies[operation] = copy
        return self.copies[operation]

    def to_last(self, tensor: Any) -> Any:
        """Return a tensor with its channels last."""
        if id(tensor) in self.moved:
            return tensor
        rank = len(tensor.shape)
        moved = self._permute(tensor, (*range(2, rank), 1))
        self.moved[id(moved)] = moved
        return moved

    def to_first(self, tensor: Any) -> Any:
        """Return a tensor as the original model has it."""
        if id(tensor) not in self.moved:
            return tensor
        rank = len(tensor.shape)
        return self._permute(tensor, (rank - 1, *range(1, rank - 1)))

    def _permute(self, tensor, axes):
        if id(tensor) not in self.permuted:
            self.permuted[id(tensor)] = self.permute(axes)(tensor), tensor
        return self.permuted[id(tensor)][0]


def _is_first(layer):
    if getattr(layer, "data_format", None) == "channels_first":
        return True
    return plain_class(layer) in _NORMALIZATIONS and layer.axis in (1, [1], (1,))


def _is_tensor(x):
    return isinstance(x, keras.KerasTensor)
