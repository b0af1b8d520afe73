"""Compute in float32 where models that train in mixed precision simulate a device.

A rounded value is an integer times a scale, which half precision cannot hold.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from keras_micronets import _keras_private
from keras_micronets.layers.graph import current_pass
from keras_micronets.layers.litert.capabilities import plain_class
from keras_micronets.layers.state import Quantizer

__all__ = ["device_precision", "full_precision", "keep_precision"]


@contextmanager
def full_precision(model: keras.Layer) -> Iterator[None]:
    """Let a model or layer compute in the types of its weights inside the block.

    Inputs in half precision, as of `Sequential` models without a `keras.Input`, are
    read in float32.
    """
    inputs = {tensor: tensor.dtype for tensor in _half_inputs(model)}
    mixed = {
        layer: _policy(layer)
        for layer in _keras_private.flatten_layers(model)
        if _is_mixed(layer) and layer.quantization_mode is None
    }
    for layer in mixed:
        layer.dtype_policy = layer.variable_dtype
    for tensor in inputs:
        _keras_private.set_input_dtype(tensor, "float32")
    try:
        yield
    finally:
        for tensor, dtype in inputs.items():
            _keras_private.set_input_dtype(tensor, dtype)
        for layer, policy in mixed.items():
            layer.dtype_policy = policy


@contextmanager
def device_precision(layer: keras.Layer, training: bool | None) -> Iterator[None]:
    """Let a call of a layer compute in float32 if it simulates a device.

    It does in inference, if the model has quantisers.

    Args:
        layer: The layer that is called.
        training: The argument of the call; `None` for that of the model's call.
    """
    if training is None:
        training = _keras_private.is_training()
    if training or not layer.built or not _is_mixed(layer) or not _simulates(layer):
        yield
        return
    with full_precision(layer):
        yield


def keep_precision(model: keras.Layer) -> None:
    """Let the plain layers of a quantised model keep the precision of their inputs.

    Those that contain micro layers no longer cast inputs. Others, of which a file has
    float operations or none, compute in float32, in training too. Models without
    quantisers stay as they are.
    """
    if not _has_quantizers(model):
        return
    for tensor in _half_inputs(model):
        _keras_private.set_input_dtype(tensor, "float32")
    for layer in _keras_private.flatten_layers(model, _is_plain):
        if _is_plain(layer) and _is_mixed(layer):
            inside = _keras_private.flatten_layers(layer)
            if all(map(_is_plain, inside)):
                layer.dtype_policy = layer.variable_dtype
            layer.autocast = False


def _policy(layer):
    """Return the policy of a layer, also if it has those of several layers by path."""
    policy: Any = layer.dtype_policy
    is_map = isinstance(policy, keras.dtype_policies.DTypePolicyMap)
    return policy[layer.path] if is_map else policy


def _is_mixed(layer):
    return layer.compute_dtype != layer.variable_dtype


def _half_inputs(model):
    """Return the symbolic inputs of mixed models that are cast to half precision."""
    return [
        tensor
        for layer in _keras_private.flatten_layers(model)
        if _is_mixed(layer) and _keras_private.is_functional(layer)
        for tensor in _keras_private.graph_tensors(layer)[0]
        if tensor.dtype == layer.compute_dtype
    ]


def _is_plain(layer):
    return plain_class(layer) is type(layer)


def _simulates(layer):
    """Return whether the model that is called, or else the layer, has quantisers."""
    present = current_pass()
    if present is None or present.entry is None:
        return _has_quantizers(layer)
    if present.simulates is None:
        present.simulates = _has_quantizers(present.entry)
    return present.simulates


def _has_quantizers(model):
    inside = _keras_private.flatten_layers(model)
    return any(isinstance(one, Quantizer) for one in inside)
