from collections.abc import Callable

import keras

from keras_micronets.layers.twins import plain_class

_RULES: dict[type, Callable] = {}


def rule_for(*classes: type) -> Callable:
    """Make a function the rule of some classes of layers or operations."""

    def register(rule):
        _RULES.update(dict.fromkeys(classes, rule))
        return rule

    return register


def rule_of(operation: keras.Operation) -> Callable | None:
    """Return the function that tells what an operation does to channels, if any.

    It is called as `rule(walk, operation, flows, shape)`, with what the operation
    reads and the shape of what it makes, and returns the channels of the latter by
    axis. Layers that Keras has quantised, or given LoRA weights, have none.
    """
    altered = getattr(operation, "quantization_mode", None) or getattr(
        operation, "lora_enabled", False
    )
    return None if altered else _RULES.get(plain_class(operation))
