"""The inputs and outputs of the models to export, and the types between them."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras

from keras_micronets import _keras_private


def with_graph(model: keras.Model) -> keras.Model:
    """Return a model with inputs and outputs to read: a subclassed one is wrapped.

    Args:
        model: A Keras model.

    Raises:
        ValueError: If the model is not built.
    """
    if not model.built:
        raise ValueError(
            f"Expected a built model. Received: {model.name!r}, which is not built. "
            "Call it on a batch, or give it a `keras.Input`."
        )
    if _keras_private.is_functional(model):
        return model
    shape = model.get_build_config().get("input_shape")
    inputs = keras.tree.map_shape_structure(
        lambda one: keras.Input(batch_shape=one), shape
    )
    return keras.Model(inputs, model(inputs), name=model.name)


def input_structure(model: keras.Model):
    """Return the structure, of `keras.KerasTensor`, in which a model takes inputs."""
    # A sequential model keeps no structure: it has one input.
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def input_names(model: keras.Model) -> list[str]:
    """Return the names under which a dictionary holds the inputs, in their order."""
    structure = input_structure(model)
    if isinstance(structure, dict):
        return sorted(structure)
    return [tensor.name for tensor in model.inputs]


def output_names(model: keras.Model) -> list[str]:
    """Return the names of the outputs, in the order of the flat list of them."""
    if isinstance(model, keras.Sequential):
        return [model.layers[-1].name]
    is_dictionary = isinstance(model.output, dict)
    return sorted(model.output) if is_dictionary else model.output_names


def call_flat(model: keras.Model, inputs) -> list:
    """Return the flat list of outputs for a flat list of inputs, for inference.

    Args:
        model: A model that `with_graph` returned.
        inputs: A tensor or array for each of `model.inputs`.
    """
    structure = keras.tree.pack_sequence_as(input_structure(model), list(inputs))
    return keras.tree.flatten(model(structure, training=False))


@contextmanager
def full_precision(model: keras.Model) -> Iterator[None]:
    """Let a model compute in the types of its weights inside the block, as files do.

    The converter has no operations in half precision, in which many models train.

    Args:
        model: A model, of any policies of types.
    """
    mixed = {
        layer: layer.dtype_policy
        for layer in _keras_private.flatten_layers(model)
        if layer.compute_dtype != layer.variable_dtype
        and layer.dtype_policy.quantization_mode is None
    }
    for layer in mixed:
        layer.dtype_policy = layer.variable_dtype
    try:
        yield
    finally:
        for layer, policy in mixed.items():
            layer.dtype_policy = policy
