"""Use private names of Keras; no other module does.

`tests/test_keras_private.py` names the feature that breaks if Keras changes one.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any

import keras

__all__ = [
    "Call",
    "application_classes",
    "attention_settings",
    "backend_function",
    "backend_functions",
    "become_layer",
    "build_shape",
    "callbacks_of_fit",
    "compiled_loss",
    "edges",
    "entry_of",
    "flatten_layers",
    "graph_calls",
    "graph_of",
    "graph_tensors",
    "inspect_call",
    "is_functional",
    "is_training",
    "lambda_arguments",
    "list_layers",
    "n_inputs",
    "name_scope",
    "nodes_in_order",
    "operation_classes",
    "operations",
    "outermost_call",
    "producer",
    "replace_layers",
    "set_input_dtype",
    "unlocked",
]


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


def inspect_call(layer: keras.Layer) -> None:
    """Let Keras pass `training` to a layer whose class, and `call`, has changed."""
    signature = inspect.signature(layer.call)
    names = list(signature.parameters)
    vars(layer).update(
        _call_signature=signature,
        call_signature_parameters=names,
        _call_has_training_arg="training" in names,
        _call_has_context_arg={x: x in names for x in layer._call_context_args},
    )


@contextmanager
def name_scope(layer: keras.Layer) -> Iterator[None]:
    """Let the paths of variables made in the block begin with the path of the layer."""
    with layer._open_name_scope():
        yield


def flatten_layers(
    model: keras.Layer, enters: Callable[[keras.Layer], bool] = lambda layer: True
) -> list[keras.Layer]:
    """Return every layer of a model once: the model, then in the order of its summary.

    The layers of a nested model follow it. Keras's own list has them in reverse order.

    Args:
        model: A model or layer.
        enters: Function of a layer that returns whether the layers inside are listed.
            Defaults to a function that returns `True`.
    """
    found, waiting = {}, [model]
    while waiting:
        layer = waiting.pop()
        if id(layer) not in found:
            found[id(layer)] = layer
            waiting.extend(reversed(layer._layers) if enters(layer) else ())
    return list(found.values())


def n_inputs(layer: keras.Layer) -> int:
    """Return the largest number of tensors, masks too, that a layer's call reads."""
    nodes = layer._inbound_nodes
    return max((len(node.arguments.keras_tensors) for node in nodes), default=0)


def build_shape(layer: keras.Layer) -> tuple[int | None, ...]:
    """Return the shape of the first input that a layer was built with."""
    shapes = layer._build_shapes_dict
    return tuple(next(iter(shapes.values())))


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
    return [
        (tensor._keras_history.operation, node.operation, position)
        for node in _nodes(model)
        for position, tensor in enumerate(node.arguments.keras_tensors)
    ]


def operations(model: keras.Model) -> list[keras.Operation]:
    """Return the nodes' operations of a functional or sequential model, layers too."""
    return _functional(model).operations


def nodes_in_order(model: keras.Model) -> list:
    """Return the nodes of a model's graph in the order in which it runs them.

    Args:
        model: A model for which `is_functional` holds.
    """
    by_depth = _functional(model)._nodes_by_depth
    depths = sorted(by_depth, reverse=True)
    return [node for depth in depths for node in by_depth[depth] if not node.is_input]


def graph_of(model: keras.Layer) -> keras.Model | None:
    """Return the functional model that holds a model's graph, `None` without one."""
    return _functional(model) if is_functional(model) else None


def outermost_call() -> Any:
    """Return an object that lives while the outermost layer is called, or `None`.

    JAX's training step does not call the model, but its `stateless_call`, within a
    scope in which each layer of the model seems to be called alone.
    """
    scopes: Any = inspect.getmodule(keras.StatelessScope)
    if scopes.in_stateless_scope():
        return scopes.get_stateless_scope()
    return _call_context()


def is_training() -> bool:
    """Return whether the model or layer that is called was given `training=True`."""
    return bool(getattr(_call_context(), "training", None))


def _call_context():
    module: Any = inspect.getmodule(keras.Layer)
    return module.global_state.get_global_attribute("current_call_ctx")


def entry_of(call: Any) -> keras.Layer | None:
    """Return the layer that an object of `outermost_call` belongs to, if known."""
    if not isinstance(call, keras.StatelessScope):
        return call.entry_layer
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "stateless_call":
            return frame.f_locals.get("self")
        frame = frame.f_back
    return None


def producer(
    tensor: keras.KerasTensor,
) -> tuple[keras.Operation | None, list[keras.KerasTensor]]:
    """Return the operation that makes a tensor of a graph, and the tensors it reads.

    Args:
        tensor: A symbolic tensor; one outside any graph has no producer. For an output
            of a nested functional model, the producer is an operation inside it.
    """
    history = getattr(tensor, "_keras_history", None)
    if history is None:
        return None, []
    operation = history.operation
    if is_functional(operation):
        return producer(_functional(operation).outputs[history.tensor_index])
    return operation, _maker(tensor).arguments.keras_tensors


@contextmanager
def backend_functions(replacements: dict[str, Callable]) -> Iterator[None]:
    """Let `keras.ops` call other functions of the backend inside the block.

    Args:
        replacements: Functions by their names in `keras.ops`.
    """
    modules = {name: _backend_module(name) for name in replacements}
    originals = {name: getattr(module, name) for name, module in modules.items()}
    try:
        for name, module in modules.items():
            setattr(module, name, replacements[name])
        yield
    finally:
        for name, module in modules.items():
            setattr(module, name, originals[name])


def backend_function(name: str) -> Callable:
    """Return the backend's function of a name in `keras.ops`."""
    return getattr(_backend_module(name), name)


def _backend_module(name):
    module: Any = inspect.getmodule(keras.ops.argmax)
    parts = module.backend.numpy, module.backend.nn, module.backend.math
    return next(part for part in parts if hasattr(part, name))


def attention_settings(layer: keras.Layer) -> tuple[tuple[int, ...], bool]:
    """Return the axes along which an attention layer attends, and if it is gated."""
    axes = getattr(layer, "_attention_axes", None) or (1,)
    gated = getattr(layer, "_use_gate", False) or getattr(layer, "use_gate", False)
    return tuple(axes), bool(gated)


def operation_classes(
    *names: str, like: Callable = keras.ops.add
) -> dict[str, type[keras.Operation]]:
    """Return the classes of the operations that functions put in a graph, by name.

    Args:
        *names: Names of classes.
        like: A function of `keras.ops` whose module defines the classes. Defaults to
            `keras.ops.add`, that of arithmetic.
    """
    module = inspect.getmodule(like)
    return {name: getattr(module, name) for name in names}


def application_classes(application: str, *names: str) -> list[type[keras.Layer]]:
    """Return layer classes that a module of `keras.applications` defines, by name."""
    module = inspect.getmodule(getattr(keras.applications, application))
    return [getattr(module, name) for name in names]


def _nodes(model):
    """Return the nodes of a model's graph; its layers may be in other graphs too."""
    functional = _functional(model)
    return [
        node
        for operation in functional.operations
        for index, node in enumerate(operation._inbound_nodes)
        if f"{id(operation)}_ib-{index}" in functional._nodes
    ]


def set_input_dtype(tensor: keras.KerasTensor, dtype: str) -> None:
    """Set the type that a model casts an input to.

    Keras gives a `Sequential` model without a `keras.Input` that of its first layer.

    Args:
        tensor: A symbolic input of a functional or sequential model.
        dtype: Name of the type.
    """
    operation: Any = producer(tensor)[0]
    tensor._dtype = operation._dtype = dtype


def _functional(model):
    """Return the functional model in which a Sequential model keeps its graph."""
    return getattr(model, "_functional", None) or model


def compiled_loss(model: keras.Model) -> Any:
    """Return the loss that `compile` made, another one after each call, or `None`."""
    return model._compile_loss


def become_layer(operation: keras.Operation, layer: keras.Layer) -> None:
    """Turn an operation of graphs into a layer, which it takes the state of, in place.

    Args:
        operation: The operation; its nodes are kept.
        layer: A new layer without nodes, which is not used any more afterwards.
    """
    nodes = operation._inbound_nodes, operation._outbound_nodes
    operation.__class__ = type(layer)
    state = dict(vars(layer))
    for bound in ("build", "quantize"):  # methods of the other object
        state.pop(bound, None)
    vars(operation).clear()
    vars(operation).update(state)
    operation._inbound_nodes, operation._outbound_nodes = nodes


def lambda_arguments(layer: keras.layers.Lambda) -> dict[str, Any]:
    """Return the arguments that make a `Lambda` layer of the same functions."""
    names = ("function", "mask", "arguments", "name", "dtype_policy", "trainable")
    found = {name: getattr(layer, name) for name in names}
    found["dtype"] = found.pop("dtype_policy")
    return found | {"output_shape": layer._output_shape}


def list_layers(model: keras.Model) -> None:
    """Let a functional model track the operations in its graph that became layers."""
    graph = _functional(model)
    with unlocked(graph):
        graph._layers = graph.layers


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


@dataclass(frozen=True)
class Call:
    """One symbolic call of an operation in a model's graph.

    Attributes:
        operation: The layer, inner model or operation.
        args, kwargs: What it is called with; tensors are symbolic.
        outputs: List of the symbolic tensors that it returns.
    """

    operation: keras.Operation
    args: tuple
    kwargs: dict
    outputs: list[keras.KerasTensor]


def graph_calls(model: keras.Model) -> list[Call]:
    """Return the calls of a functional or sequential model, producers before readers.

    Args:
        model: A model for which `is_functional` holds.
    """
    nodes = {id(node): node for node in _nodes(model)}
    makers = {
        key: [id(_maker(tensor)) for tensor in node.arguments.keras_tensors]
        for key, node in nodes.items()
    }
    return [
        Call(
            nodes[key].operation,
            nodes[key].arguments.args,
            nodes[key].arguments.kwargs,
            list(nodes[key].output_tensors),
        )
        for key in TopologicalSorter(makers).static_order()
    ]


def graph_tensors(
    model: keras.Model,
) -> tuple[list[keras.KerasTensor], list[keras.KerasTensor]]:
    """Return the symbolic inputs and outputs of a functional or sequential model."""
    functional = _functional(model)
    return keras.tree.flatten(functional.inputs), keras.tree.flatten(functional.outputs)


def _maker(tensor):
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index]


def callbacks_of_fit() -> list[keras.callbacks.Callback]:
    """Return the callbacks of the `fit` that calls a hook, in their order.

    Keras gives callbacks no reference to each other; the list is found among the
    callers. It is empty if no `keras.callbacks.CallbackList` calls.
    """
    frame, found = inspect.currentframe(), []
    while frame is not None:
        names = frame.f_locals
        if isinstance(names.get("self"), keras.callbacks.CallbackList):
            found = [*names["self"].callbacks, *found]
        frame = frame.f_back
    return list(dict.fromkeys(found))
