"""Registration with Keras, under today's names and those of earlier versions."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, Self, TypeVar

import keras

__all__ = ["Value", "serializable"]

_Class = TypeVar("_Class", bound=type)
_PACKAGE = "keras_micronets"


def serializable(*earlier_names: str) -> Callable[[_Class], _Class]:
    """Return a decorator that lets Keras save and load instances of a class.

    Args:
        *earlier_names: Names of the class in earlier versions, whose files still load.
    """

    def register(cls):
        keras.saving.register_keras_serializable(_PACKAGE)(cls)
        for name in earlier_names:
            keras.saving.get_custom_objects()[f"{_PACKAGE}>{name}"] = cls
        return cls

    return register


class Value:
    """Mixin: a dataclass that Keras restores from its fields."""

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal value."""
        return {
            field.name: keras.saving.serialize_keras_object(getattr(self, field.name))
            for field in fields(self)
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make a value from what `get_config` returned."""
        return cls(**keras.saving.deserialize_keras_object(config))
