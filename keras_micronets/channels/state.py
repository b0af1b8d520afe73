"""Slice the weights, masks and fake quantisers of a model for its cut copy."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_micronets import _keras_private
from keras_micronets.layers.clone import plain_copy, same_copy
from keras_micronets.layers.kernels import kernels
from keras_micronets.layers.micro.micro_layer import MicroLayer
from keras_micronets.layers.micro.normalization import MicroAveraging
from keras_micronets.layers.quantization import quantized_share
from keras_micronets.layers.state import State, plain_variables

__all__ = ["copier", "has_state", "slices"]

# From the `id` of a variable to the indices that are kept of its axes.
Indices = Mapping[int, Mapping[int, np.ndarray]]
Slice = tuple[keras.Variable, keras.Variable, Callable[[Any], np.ndarray]]


def has_state(model: keras.Model, indices: Indices) -> bool:
    """Return whether a quantiser is on, or a mask removes weights that are kept.

    Args:
        model: A model, prepared or not.
        indices: Dictionary from the `id` of a variable to the indices that are kept of
            its axes.
    """
    masks = ((kernel.mask, indices[id(kernel.variable)]) for kernel in kernels(model))
    removes = any(not _take(mask, kept).all() for mask, kept in masks)
    return removes or quantized_share(model) > 0


def copier(indices: Indices) -> Callable[..., keras.Layer]:
    """Return a function of a layer and its new arguments, which copies its class.

    Normalisations become plain layers if their masks keep all channels that are left.
    """

    def copy(layer, /, **changed):
        if isinstance(layer, MicroAveraging):
            mask = layer.channels_mask.mask
            if _take(mask, indices[id(mask)]).all():
                return plain_copy(layer, **changed)
        return same_copy(layer, **changed)

    return copy


def slices(model: keras.Model, small: keras.Model, indices: Indices) -> list[Slice]:
    """Pair the variables of a model with those of its cut copy.

    A mask is sliced as its kernel, and step sizes of a kernel as the axis that has
    them. Other ranges hold for all channels of a tensor. The copy may be plain.

    Returns:
        A list of `(source, target, take)`, where `take` is a function of an array of
        the source's shape that returns one of the target's shape.
    """
    plain = zip(plain_variables(model), plain_variables(small), strict=True)
    pairs = [(x, y, partial(_take, indices=indices[id(x)])) for x, y in plain]
    for source, target in zip(_layers(model), _layers(small), strict=False):
        if isinstance(target, MicroLayer):
            pairs.extend(_state_slices(source, target, indices))
    return pairs


def _layers(model):
    every = _keras_private.flatten_layers(model)
    return [layer for layer in every if not isinstance(layer, State)]


def _state_slices(source, target, indices):
    copies = target.nested_states()
    for name, state in source.nested_states().items():
        variables = zip(state.variables, copies[name].variables, strict=True)
        for one, other in variables:
            yield one, other, _slice_of(source, name, one, indices)


def _slice_of(layer, name, variable, indices):
    """Return the function that slices a variable of a layer's mask or quantiser."""
    for kernel in getattr(layer, "kernel_names", ()):
        kept = indices[id(layer.kernel_variable(kernel))]
        if name == f"{kernel}_mask":
            return partial(_take, indices=kept)
        if name == f"{kernel}_quantizer" and len(variable.shape):
            return partial(_take_scales, layer=layer, name=kernel, indices=kept)
    return partial(_take, indices=indices[id(variable)])


def _take(variable, indices):
    values = ops.convert_to_numpy(variable)
    for axis, kept in indices.items():
        values = np.take(values, kept, axis)
    return values


def _take_scales(scales, layer, name, indices):
    """Slice an array with one element for each scale of a kernel.

    LiteRT's layout is a reshaped kernel, so the elements are sliced within it.
    """
    axis = getattr(layer, f"{name}_quantizer").axis
    shape = layer.kernel_variable(name).shape
    stored = layer.to_litert(name, ops.zeros(shape)).shape
    by_axis = [-1 if i == axis % len(stored) else 1 for i in range(len(stored))]
    every = np.broadcast_to(ops.convert_to_numpy(scales).reshape(by_axis), stored)
    part = layer.to_litert(name, _take(every.reshape(shape), indices))
    part = np.moveaxis(ops.convert_to_numpy(part), axis, 0)
    return part.reshape(len(part), -1)[:, 0]
