"""Registration with Keras, and configurations derived from constructor arguments."""

import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any, ClassVar, Self, TypeVar

import keras

__all__ = ["Configurable", "serializable"]

_Object = TypeVar("_Object", bound=Callable)
_PACKAGE = "keras_micronets"


def serializable(
    *earlier_names: str, name: str | None = None
) -> Callable[[_Object], _Object]:
    """Return a decorator that lets Keras save and load a class or function.

    Args:
        *earlier_names: Names in earlier versions, whose files still load.
        name: The registered name, where two classes have the same one. `None` for
            the name of the class. Defaults to `None`.
    """

    def register(value):
        keras.saving.register_keras_serializable(_PACKAGE, name)(value)
        for earlier in earlier_names:
            keras.saving.get_custom_objects()[f"{_PACKAGE}>{earlier}"] = value
        return value

    return register


class Configurable:
    """Derive `get_config`, `from_config` and `repr` from the constructor's arguments.

    Subclasses keep each argument in an attribute of the same name. `renamed` maps
    argument names in configurations of earlier versions to today's.
    """

    renamed: ClassVar[dict[str, str]] = {}

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal object, serialised by Keras.

        Raises:
            ValueError: If an argument cannot be part of a configuration: a function
                that is not registered with Keras, or data that is not an array.
        """
        return {name: _serialize(name, self.argument(name)) for name in _names(self)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make an object from the dictionary that `get_config` returned."""
        restore = keras.saving.deserialize_keras_object
        return cls(
            **{cls.renamed.get(name, name): restore(x) for name, x in config.items()}
        )

    def argument(self, name: str) -> Any:
        """Return the value of an argument to save and to print."""
        return getattr(self, name)

    def __repr__(self) -> str:
        shown = []
        for name, parameter in _names(self).items():
            value = self.argument(name)
            if not _is_equal(value, parameter.default):
                shown.append(f"{name}={_printed(name, value)}")
        return f"{type(self).__name__}({', '.join(shown)})"


def _names(instance):
    return inspect.signature(type(instance)).parameters


def _is_equal(value, default):
    return value is default or (type(value) is type(default) and value == default)


def _printed(name, value):
    if name.endswith("data"):
        return name  # arrays and datasets have no text that could be pasted
    if isinstance(value, keras.optimizers.schedules.LearningRateSchedule):
        pairs = [f"{key}={x!r}" for key, x in value.get_config().items()]
        cls = f"keras.optimizers.schedules.{type(value).__name__}"
        return f"{cls}({', '.join(pairs)})"  # Keras prints an address
    return value.__name__ if isinstance(value, FunctionType) else repr(value)


def _serialize(name, value):
    if callable(value) and not hasattr(value, "get_config"):
        name_of = keras.saving.get_registered_name
        registered = name_of(value) if hasattr(value, "__name__") else ""
        if keras.saving.get_registered_object(registered) is not value:
            raise ValueError(
                f"Expected `{name}` to be registered with "
                "`keras.saving.register_keras_serializable`, so that a configuration "
                f"can name it. Received: {name}={value!r}."
            )
    try:
        return keras.saving.serialize_keras_object(value)
    except (AttributeError, TypeError) as error:
        raise ValueError(
            f"Expected `{name}` to be a value that Keras can serialise: a number, a "
            "string, an array or an object with `get_config`. "
            f"Received: {name}={value!r}."
        ) from error
