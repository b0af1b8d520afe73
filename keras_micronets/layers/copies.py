"""Copies of single layers, also with functions and arrays that are in memory only."""

from inspect import isfunction
from typing import Any

import keras

from keras_micronets import _keras_private

__all__ = ["copy_of"]


def copy_of(
    layer: Any, cls: Any = None, config: dict[str, Any] | None = None, /, **changed: Any
) -> Any:
    """Return a new layer or operation of a configuration, except for some arguments.

    Functions of the layer that are not registered with Keras are those of the copy.
    Arrays that initialise weights are left out if arguments change, since shapes do.

    Args:
        layer: The layer that is copied.
        cls: Class of the copy. Defaults to the layer's.
        config: Its configuration. Defaults to the layer's.
        **changed: Configuration entries that change.
    """
    if isinstance(layer, keras.layers.Lambda):  # Keras loads no function of memory
        return keras.layers.Lambda(**_keras_private.lambda_arguments(layer))
    given: dict[str, Any] = layer.get_config() if config is None else config
    config = given | changed
    if changed:
        config = {name: _without_shapes(value) for name, value in config.items()}
    functions = {f.__name__: f for f in vars(layer).values() if isfunction(f)}
    with keras.saving.custom_object_scope(functions):
        return (cls or type(layer)).from_config(config)


def _without_shapes(value):
    """Return zeros for an initialiser of an array, and nested layers unbuilt."""
    if not isinstance(value, dict):
        return value
    if value.get("class_name") == "Constant":
        given = value["config"].get("value")
        return "zeros" if isinstance(given, dict | list) else value
    nested = {name: _without_shapes(x) for name, x in value.items()}
    nested.pop("build_config", None)
    return nested
