import warnings
from collections import defaultdict

import keras
import numpy as np
from keras import ops

from keras_micronets import _keras_private
from keras_micronets.channels.graph import ChannelGraph, channel_graph
from keras_micronets.channels.plans import Plan
from keras_micronets.layers.clone import as_not_compiled, plain_copy, plain_variables
from keras_micronets.layers.optimizer_slots import copy_slots


def cut(model: keras.Model, plan: Plan) -> keras.Model:
    """Return a plain Keras model without the channels that a plan leaves out.

    It predicts what `model` does when the kernels that read those channels have zeros
    in their place. Layers keep their names; masks and fake quantisers are left behind.
    A compiled model's copy is compiled alike, and its optimizer goes on with what it
    has of the channels that stay.

    Args:
        model: A built functional or sequential model, prepared or not; it is left as
            it is.
        plan: A `Plan` of this model or of one of the same layers.

    Returns:
        A new Keras model.

    Raises:
        ValueError: If the plan is of another model.

    Example:

    ```python
    plan = keras_micronets.channels.plan(model, macs=0.5)
    small = keras_micronets.channels.cut(model, plan)
    ```
    """
    return cut_by_graph(model, channel_graph(model), plan)


def cut_by_graph(model: keras.Model, graph: ChannelGraph, plan: Plan) -> keras.Model:
    """Cut a model whose graph has been read already.

    Args:
        model: As for `cut`.
        graph: Its `ChannelGraph`.
        plan: As for `cut`.
    """
    keep = plan.kept_channels(graph)
    settings = _settings(graph, keep)
    small = _copied(model, settings)
    sources = plain_variables(model)
    indices = _indices(graph, keep)
    for target, source in zip(small.variables, sources, strict=True):
        target.assign(_taken(source, indices[id(source)]))
    if getattr(model, "compiled", False):
        _compile_alike(small, model)
    if small.compiled:
        pairs = {id(s): t for s, t in zip(sources, small.variables, strict=True)}
        copy_slots(model, small, pairs, lambda slot, of: _taken(slot, indices[id(of)]))
    return small


def _compile_alike(small, model):
    try:
        small.compile_from_config(model.get_compile_config())
    except (TypeError, ValueError) as error:
        warnings.warn(
            f"What is left of {model.name!r} is not compiled: Keras can't make its "
            f"optimizer, loss or metrics again ({error}). Compile it yourself.",
            stacklevel=3,
        )


def _copied(model, settings, inputs=None):
    """Make the layers anew; those of an inner model behind inputs of their own."""

    def copy(layer):
        if not _keras_private.is_functional(layer):
            return _resized(layer, settings[layer])
        tensors, _ = _keras_private.graph_tensors(layer)
        inputs = [_input(tensor, settings) for tensor in tensors]
        if not isinstance(layer, keras.Sequential):
            inputs = keras.tree.pack_sequence_as(layer.input, inputs)
        return _copied(layer, settings, inputs)

    with as_not_compiled(model):
        return keras.models.clone_model(
            model, input_tensors=inputs, clone_function=copy
        )


def _input(tensor, settings):
    layer, _ = _keras_private.producer(tensor)
    shape = list(tensor.shape)
    for _, axis, length in settings[layer]:
        shape[axis] = length
    return keras.Input(batch_shape=shape, dtype=tensor.dtype, name=layer.name)


def _settings(graph: ChannelGraph, keep):
    """The new lengths that a layer's configuration names, by layer."""
    found = defaultdict(list)
    for node in graph.nodes:
        if node.setting is not None:
            length = int(np.count_nonzero(keep[node.channels]))
            found[node.layer].append((*node.setting, length))
    return found


def _resized(layer, settings):
    changed = {}
    for name, index, length in settings:
        old = changed.get(name, layer.get_config()[name])
        if index is not None and not isinstance(old, int):
            changed[name] = (*old[:index], length, *old[index + 1 :])
        else:
            changed[name] = length
    return plain_copy(layer, **changed)


def _indices(graph, keep):
    """Which indices of each variable's axes stay, by its `id`."""
    found = defaultdict(dict)
    for node in graph.nodes:
        if node.weight is not None:
            found[id(node.weight)][node.axis] = np.flatnonzero(keep[node.channels])
    return found


def _taken(variable, indices):
    values = ops.convert_to_numpy(variable)
    for axis, kept in indices.items():
        values = np.take(values, kept, axis)
    return values
