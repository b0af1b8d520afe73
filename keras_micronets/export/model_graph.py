"""Read the inputs and outputs of models to export."""

from typing import Any

import keras

from keras_micronets import _keras_private
from keras_micronets.layers import SideBySide

__all__ = ["call_flat", "input_names", "output_names", "with_graph"]


def with_graph(model: keras.Model) -> keras.Model:
    """Return a built model with known inputs; a subclassed one is wrapped."""
    if isinstance(model, SideBySide):
        raise ValueError(
            "Expected one model. Received: a `SideBySide` model of "
            f"{len(model.members)} members. Export each of its `members`, or choose "
            "among them with `EnsemblePruner` and export the ensemble."
        )
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


def input_structure(model: keras.Model) -> Any:
    """Return the nested structure of a model's inputs, of `keras.KerasTensor`."""
    # A sequential model keeps no structure: it has one input.
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def input_names(model: keras.Model) -> list[str]:
    """Return the keys of a dictionary of the inputs, in the order of the inputs."""
    structure = input_structure(model)
    if isinstance(structure, dict) and len(structure) == len(model.inputs):
        return sorted(structure)
    return [tensor.name for tensor in model.inputs]


def output_names(model: keras.Model) -> list[str]:
    """Return the names of the outputs, in the order of their flat list."""
    if isinstance(model, keras.Sequential):
        return [model.layers[-1].name]
    is_dictionary = isinstance(model.output, dict)
    return sorted(model.output) if is_dictionary else model.output_names


def call_flat(model: keras.Model, inputs: Any) -> list:
    """Return the flat list of outputs for a flat list of inputs, for inference."""
    structure = keras.tree.pack_sequence_as(input_structure(model), list(inputs))
    return keras.tree.flatten(model(structure, training=False))
