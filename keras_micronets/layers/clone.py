"""Copies of prepared models, with or without this package's layers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_micronets import _keras_private
from keras_micronets.layers.copies import copy_of
from keras_micronets.layers.kernels import kernels
from keras_micronets.layers.litert.capabilities import plain_class, plain_operation
from keras_micronets.layers.micro.micro_layer import MicroLayer, is_micro_layer
from keras_micronets.layers.micro.precision import keep_precision
from keras_micronets.layers.quantization import quantized_share, quantizers
from keras_micronets.layers.side_by_side import SideBySide, members_of
from keras_micronets.layers.state import State, plain_variables

__all__ = [
    "as_not_compiled",
    "clone",
    "copy_state",
    "keeps_state",
    "plain_copy",
    "same_copy",
    "strip",
]


def strip(model: keras.Model) -> keras.Model:
    """Return a plain Keras copy of a prepared model, with masked weights set to zero.

    The copy has the layers and names that the model had before preparation, and none
    of this package's classes. It has the raw weights, without fake quantisers, and is
    not compiled. Keras may rename input layers that were given no name.

    Args:
        model: A built Keras model, prepared or not. A subclassed model needs a
            `get_config` that its constructor accepts, as for saving.

    Returns:
        A new Keras model with the same outputs, except for fake quantisation.

    Example:

    ```python
    plain = kmn.strip(model)
    plain.save("plain.keras")  # loads without this package
    ```
    """
    plain = _copy_structure(model, plain_copy)
    values = {id(kernel.variable): _masked_weights(kernel) for kernel in kernels(model)}
    for target, source in zip(plain.variables, plain_variables(model), strict=True):
        value = values.get(id(source))
        target.assign(_copied(source) if value is None else value)
    return plain


def _masked_weights(kernel):
    """Mask the variable: `layer.masked_kernel` has the layer's compute type."""
    weights = kernel.weights
    return np.where(kernel.mask, weights, weights.dtype.type(0))


def _copied(variable):
    """Under JAX two variables would share a buffer, which training one deletes."""
    return ops.convert_to_numpy(variable)


def clone(model: keras.Model) -> keras.Model:
    """Return a copy of a prepared model that shares no variables and is not compiled.

    Args:
        model: A built Keras model, prepared or not. A subclassed model needs a
            `get_config` that its constructor accepts, as for saving.

    Returns:
        A new model of the same layers, weights, masks and quantisers.
    """
    copy = _copy_structure(model, same_copy)
    targets = [layer for layer in _layers(copy) if not isinstance(layer, State)]
    sources = [layer for layer in _layers(model) if not isinstance(layer, State)]
    for target, source in zip(targets, sources, strict=True):
        # The constructor of a subclassed model makes plain layers.
        if is_micro_layer(source) and not is_micro_layer(target):
            target.__class__ = type(source)
            target.scheme = source.scheme
            target.extend(source.quantizers)
    _assign(copy, model, targets, sources)
    keep_precision(copy)
    return copy


def copy_state(source: keras.Layer, target: keras.Layer) -> None:
    """Give a layer the weights, masks and quantisers of another one like it."""
    _assign(target, source, [target], [source])


def _assign(copy, model, targets, sources):
    pairs = zip(plain_variables(copy), plain_variables(model), strict=True)
    for target, source in (*pairs, *_state_pairs(targets, sources)):
        target.assign(_copied(source))


def _copy_structure(model, copy_layer):
    if isinstance(model, SideBySide):
        members = [_copy_structure(member, copy_layer) for member in model.members]
        return model.with_members(members)
    if _keras_private.is_functional(model):
        with as_not_compiled(model):
            return keras.models.clone_model(
                model, clone_function=copy_layer, recursive=True
            )
    copy = type(model).from_config(model.get_config())
    copy.build_from_config(model.get_build_config())
    copy.built = True  # Keras sets it for the layers only
    return copy


@contextmanager
def as_not_compiled(model: keras.Model) -> Iterator[None]:
    """Keep Keras from compiling the copies that are made inside the `with` block."""
    compiled = [layer for layer in _layers(model) if getattr(layer, "compiled", False)]
    for layer in compiled:
        layer.compiled = False
    try:
        yield
    finally:
        for layer in compiled:
            layer.compiled = True


def plain_copy(layer: keras.Layer, /, **changed: Any) -> keras.Layer:
    """Return a new plain layer of the same configuration, except for some arguments."""
    layer = plain_operation(layer)
    config = layer.get_config()
    if isinstance(layer, MicroLayer):
        config = {k: v for k, v in config.items() if k not in layer.state_config()}
    changed = _plain_config(changed)
    return copy_of(layer, plain_class(layer), _plain_config(config), **changed)


def _plain_config(config: Any) -> Any:
    """Replace micro layers within a configuration, as wrappers have them."""
    if isinstance(config, list | tuple):
        return type(config)(map(_plain_config, config))
    if not isinstance(config, dict):
        return config
    cls = keras.saving.get_registered_object(config.get("registered_name"))
    if isinstance(cls, type) and issubclass(cls, MicroLayer):
        layer: Any = keras.saving.deserialize_keras_object(config)
        return keras.saving.serialize_keras_object(plain_copy(layer))
    return {name: _plain_config(value) for name, value in config.items()}


def same_copy(layer: keras.Layer, /, **changed: Any) -> keras.Layer:
    """Return a new layer like one, prepared if it is, except for some arguments."""
    operation = plain_operation(layer)
    if operation is layer:
        return copy_of(layer, **changed)
    return copy_of(layer, operation=plain_copy(operation, **changed))


def _state_pairs(targets, sources):
    """Pair masks and quantisers by name: their order depends on the preparation."""
    for target, source in zip(targets, sources, strict=True):
        if isinstance(source, MicroLayer):
            for name, state in source.nested_states().items():
                yield from zip(
                    target.nested_states()[name].variables, state.variables, strict=True
                )


def _layers(model):
    return _keras_private.flatten_layers(model)


def keeps_state(model: keras.Model) -> bool:
    """Return whether a `.keras` file of the model restores its quantisers.

    Keras restores a subclassed model, and the layers within a layer of another package,
    by the constructor, which makes plain layers. Layers within Keras's wrappers and
    attention layers are restored.
    """
    if quantized_share(model) == 0:
        return True
    members = members_of(model)
    restored = {
        x for one in members for x in _keras_private.flatten_layers(one, _saves)
    }
    return restored.issuperset(quantizers(model))


def _saves(layer):
    """Return whether the configuration of a layer has those of the layers inside."""
    return (
        _keras_private.is_functional(layer)
        or isinstance(layer, keras.layers.Wrapper)
        or is_micro_layer(layer)
    )
