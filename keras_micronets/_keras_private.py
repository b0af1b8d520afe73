"""The few private names of Keras that the package stands on, all of them here.

`tests/test_keras_private.py` says what broke when Keras changes one of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import keras


@contextmanager
def unlocked(layer: keras.Layer) -> Iterator[None]:
    """Let a built layer take new nested layers inside the `with` block.

    Args:
        layer: A layer or model, built or not.
    """
    was_locked = layer._tracker.locked
    layer._tracker.unlock()
    try:
        yield
    finally:
        if was_locked:
            layer._tracker.lock()
        if keras.backend.backend() == "torch":
            layer._track_variables()


@contextmanager
def name_scope(layer: keras.Layer) -> Iterator[None]:
    """Give variables made inside the block paths that begin with the layer's own."""
    with layer._open_name_scope():
        yield


def flatten_layers(model: keras.Layer) -> list[keras.Layer]:
    """Return every layer of a model, nested ones included, the model first."""
    return list(model._flatten_layers())


def is_functional(model: keras.Layer) -> bool:
    """Return whether a model has a graph of nodes to read."""
    return getattr(_functional(model), "_nodes", None) is not None


def edges(model: keras.Model) -> list[tuple[keras.Operation, keras.Operation, int]]:
    """Return the graph of a functional or sequential model.

    Args:
        model: A model for which `is_functional` holds.

    Returns:
        A list of `(producer, reader, position)`, one entry for each tensor that
        one operation reads from another; `position` counts the tensors among the
        reader's flattened arguments. Input layers appear as producers.
    """
    functional = _functional(model)
    nodes = [
        node
        for operation in functional.operations
        for index, node in enumerate(operation._inbound_nodes)
        if f"{id(operation)}_ib-{index}" in functional._nodes
    ]
    return [
        (tensor._keras_history.operation, node.operation, position)
        for node in nodes
        for position, tensor in enumerate(node.arguments.keras_tensors)
    ]


def readers(operation: keras.Operation) -> set[keras.Operation]:
    """Return the operations that read what one puts out, in all graphs it is in."""
    return {node.operation for node in operation._outbound_nodes}


def output_operations(model: keras.Model) -> set[keras.Operation]:
    """Return the operations that make the model's outputs."""
    outputs = keras.tree.flatten(_functional(model).outputs)
    return {tensor._keras_history.operation for tensor in outputs}


def _functional(model):
    """A Sequential model keeps its graph in a functional model of its own."""
    return getattr(model, "_functional", None) or model


def compiled_loss(model: keras.Model):
    """Return the loss that `compile` made, another one after each call, or `None`."""
    return model._compile_loss


def replace_layers(owner: keras.Layer, name: str, layers: list) -> None:
    """Give a built model another list of nested layers under an attribute.

    Args:
        owner: The model.
        name: Name of the attribute; what it held before is no longer tracked.
        layers: The new layers; entries that are no layers are kept, untracked.
    """
    with unlocked(owner):
        for old in getattr(owner, name, ()):
            owner._tracker.untrack(old)
        setattr(owner, name, layers)
