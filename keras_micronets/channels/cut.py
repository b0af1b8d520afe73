"""Cut channels: copy a model with smaller layers."""

import warnings
from collections import defaultdict

import keras
import numpy as np
from keras import ops

from keras_micronets import _keras_private
from keras_micronets.channels.check import check_cut
from keras_micronets.channels.graph import ChannelGraph, channel_graph
from keras_micronets.channels.masking import masked_plan
from keras_micronets.channels.plans import Plan
from keras_micronets.layers.clone import as_not_compiled, plain_copy
from keras_micronets.layers.litert.capabilities import plain_operation
from keras_micronets.layers.optimizer_slots import copy_slots
from keras_micronets.layers.state import plain_variables

__all__ = ["compact", "cut"]


def cut(model: keras.Model, plan: Plan) -> keras.Model:
    """Return a plain Keras model without the channels that a plan leaves out.

    Its predictions are those of `model` with zeros in place of these channels. Layer
    names stay; masks and fake quantisers are removed. The copy of a compiled model is
    compiled alike, with the optimizer state of the channels that are kept.

    Args:
        model: A built functional or sequential model, prepared or not. It is not
            changed.
        plan: A `Plan` of this model or of one of the same layers.

    Returns:
        A new Keras model.

    Raises:
        ValueError: If the plan is another model's, a layer cannot be copied, or the
            copy predicts something else, which is checked with random inputs.

    Example:

    ```python
    plan = keras_micronets.channels.plan(model, macs=0.5, min_channels=2, round_to=2)
    small = keras_micronets.channels.cut(model, plan)
    ```
    """
    return cut_by_graph(model, channel_graph(model), plan)


def cut_by_graph(model: keras.Model, graph: ChannelGraph, plan: Plan) -> keras.Model:
    """Cut a model whose graph is known."""
    small, indices = _cut_weights(model, graph, plan)
    sources = plain_variables(model)
    if getattr(model, "compiled", False):
        _compile_alike(small, model)
    if small.compiled:
        pairs = {id(s): t for s, t in zip(sources, small.variables, strict=True)}
        copy_slots(model, small, pairs, lambda slot, of: _take(slot, indices[id(of)]))
    return small


def _cut_weights(model, graph, plan):
    """Return a checked copy that is not compiled, and the indices of the weights."""
    keep = plan.kept_channels(graph)
    settings, indices = _changes(graph, keep)
    copies: dict[keras.Operation, keras.Operation] = {}
    small = _copy_structure(model, settings, copies)
    sources = plain_variables(model)
    for target, source in zip(small.variables, sources, strict=True):
        target.assign(_take(source, indices[id(source)]))
    check_cut(model, small, graph, keep, copies)
    return small, indices


def try_cut(model: keras.Model, graph: ChannelGraph, plan: Plan) -> None:
    """Raise a `ValueError` if a model cannot be cut as a plan says."""
    _cut_weights(model, graph, plan)


def compact(model: keras.Model) -> keras.Model:
    """Return a plain Keras model without the channels that no kernel reads.

    Args:
        model: A prepared model that `callbacks.ChannelPruning` has masked.

    Returns:
        A new Keras model, as from `cut`.

    Raises:
        ValueError: If the model is subclassed.

    Example:

    ```python
    pruning = keras_micronets.callbacks.ChannelPruning(macs=0.5, min_channels=2)
    model.fit(x, y, epochs=2, callbacks=[pruning])
    small = keras_micronets.channels.compact(model)
    ```
    """
    graph = channel_graph(model)
    return cut_by_graph(model, graph, masked_plan(model, graph))


def _compile_alike(small, model):
    try:
        small.compile_from_config(model.get_compile_config())
    except (TypeError, ValueError) as error:
        warnings.warn(
            f"The cut copy of {model.name!r} is not compiled: Keras cannot restore its "
            f"optimizer, loss or metrics ({error}). Compile it yourself.",
            stacklevel=3,
        )


def _copy_structure(model, settings, copies, inputs=None):
    """Copy a model with new layers; nested models get new inputs of their new sizes.

    The copies of layers and operations are added to the dictionary `copies`.
    """
    slices = {}

    def copy(layer):
        if not _keras_private.is_functional(layer):
            changes = settings[plain_operation(layer)]
            copies[layer] = copied = _resized(layer, changes)
            slices[id(copied)] = changes
            return copied
        tensors, _ = _keras_private.graph_tensors(layer)
        inputs = [_new_input(tensor, settings) for tensor in tensors]
        if not isinstance(layer, keras.Sequential):
            inputs = keras.tree.pack_sequence_as(layer.input, inputs)
        return _copy_structure(layer, settings, copies, inputs)

    def call(operation, *args, **kwargs):
        for name, path, bound in slices.get(id(operation), ()):
            if name == "key":
                args = (args[0], _replaced(args[1], path, bound))
        return operation(*args, **kwargs)

    # The layers of a sequential model have no other arguments than tensors.
    function = {} if isinstance(model, keras.Sequential) else {"call_function": call}
    with as_not_compiled(model):
        return keras.models.clone_model(
            model, input_tensors=inputs, clone_function=copy, **function
        )


def _new_input(tensor, settings):
    layer, _ = _keras_private.producer(tensor)
    shape = list(tensor.shape)
    for _, axis, length in settings[layer]:
        shape[axis] = length
    name = getattr(layer, "name", None)
    return keras.Input(batch_shape=shape, dtype=tensor.dtype, name=name)


def _changes(graph, keep):
    """Return what cutting changes, by layer and by the `id` of a variable.

    For layers these are lists of configuration entries `(name, index, length)`, for
    variables dictionaries from axis to the kept indices.
    """
    settings, indices = defaultdict(list), defaultdict(dict)
    for node in graph.nodes:
        kept = np.flatnonzero(keep[node.channels])
        if node.setting is not None:
            settings[node.layer].append((*node.setting, len(kept)))
        if node.weight is not None:
            indices[id(node.weight)][node.axis] = kept
    return settings, indices


def _resized(layer, settings):
    """Return a plain copy of a layer with new configuration entries."""
    changed, config = {}, plain_operation(layer).get_config()
    for name, index, length in settings:
        if name in config:
            old = changed.get(name, config[name])
            if name == "indices_or_sections" and isinstance(old, int):
                old = [0] * (old - 1)  # as many bounds
            path = index if isinstance(index, tuple) else (index,)
            changed[name] = _replaced(old, path, length)
    return plain_copy(layer, **changed)


def _replaced(entry, path, value):
    """Return a nested entry with another value at the end of a path."""
    if path in ((), (None,)) or isinstance(entry, int):
        return value
    first, *rest = path
    if isinstance(entry, slice):
        bounds = {"start": entry.start, "stop": entry.stop, first: value}
        return slice(bounds["start"], bounds["stop"])
    copy = dict(entry) if isinstance(entry, dict) else list(entry)
    copy[first] = _replaced(copy[first], tuple(rest), value)
    return copy if isinstance(entry, dict) else tuple(copy)


def _take(variable, indices):
    values = ops.convert_to_numpy(variable)
    for axis, kept in indices.items():
        values = np.take(values, kept, axis)
    return values
