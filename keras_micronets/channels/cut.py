"""Cut channels: copy a model with smaller layers."""

import warnings
from collections import defaultdict

import keras
import numpy as np

from keras_micronets import _keras_private
from keras_micronets.channels.check import check_cut
from keras_micronets.channels.graph import ChannelGraph, channel_graph
from keras_micronets.channels.masking import averaging_nodes, masked_plan
from keras_micronets.channels.plans import Plan
from keras_micronets.channels.state import copier, has_state, slices
from keras_micronets.layers.clone import as_not_compiled, plain_copy
from keras_micronets.layers.litert.capabilities import plain_operation
from keras_micronets.layers.micro.normalization import MicroAveraging
from keras_micronets.layers.micro.precision import keep_precision
from keras_micronets.layers.optimizer_slots import copy_slots

__all__ = ["compact", "cut"]


def cut(model: keras.Model, plan: Plan) -> keras.Model:
    """Return a model without the channels that a plan leaves out.

    Its predictions are those of `model` with zeros in place of these channels. Layer
    names stay. The copy of a compiled model is compiled alike, with the optimizer state
    of the channels that are kept.

    If a fake quantiser of `model` is on, or a mask removes weights of kept channels,
    the copy is prepared alike: it has these masks, the ranges of the quantisers and
    learned step sizes, so that it is trained further or exported without calibration
    data. Otherwise it is a plain Keras model; `strip` makes one of any copy.

    Args:
        model: A built functional or sequential model, prepared or not. It is not
            changed.
        plan: A `Plan` of this model or of one of the same layers.

    Returns:
        A new Keras model, prepared or plain.

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
    small, sliced = _cut_weights(model, graph, plan)
    if getattr(model, "compiled", False):
        _compile_alike(small, model)
    if small.compiled:
        pairs = {id(source): target for source, target, _ in sliced}
        takes = {id(source): take for source, _, take in sliced}
        copy_slots(model, small, pairs, lambda slot, of: takes[id(of)](slot))
    return small


def _cut_weights(model, graph, plan, *, prepared=False):
    """Return a checked copy that is not compiled, and the `slices` of its variables."""
    keep = plan.kept_channels(graph)
    settings, indices = _changes(graph, keep)
    prepared = prepared or has_state(model, indices)
    copies: dict[keras.Operation, keras.Operation] = {}
    copy = copier(indices) if prepared else plain_copy
    small = _copy_structure(model, settings, copy, copies)
    sliced = slices(model, small, indices)
    for source, target, take in sliced:
        target.assign(take(source))
    keep_precision(small)
    check_cut(model, small, graph, keep, copies)
    return small, sliced


def try_cut(model: keras.Model, graph: ChannelGraph, plan: Plan) -> None:
    """Raise a `ValueError` if a prepared model cannot be cut as a plan says."""
    _cut_weights(model, graph, plan, prepared=True)


def compact(model: keras.Model) -> keras.Model:
    """Return a model without the channels that no kernel reads.

    Args:
        model: A prepared model that `callbacks.ChannelPruning` has masked.

    Returns:
        A new Keras model, prepared or plain as from `cut`.

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


def _copy_structure(model, settings, copy_layer, copies, inputs=None):
    """Copy a model with new layers; nested models get new inputs of their new sizes.

    The copies of layers and operations are added to the dictionary `copies`.
    """
    keys = {}

    def copy(layer):
        if not _keras_private.is_functional(layer):
            changes = settings[plain_operation(layer)]
            copied = copy_layer(layer, **_changed(layer, changes))
            copies[layer], keys[id(copied)] = copied, changes
            return copied
        tensors, _ = _keras_private.graph_tensors(layer)
        inputs = [_new_input(tensor, settings) for tensor in tensors]
        if not isinstance(layer, keras.Sequential):
            inputs = keras.tree.pack_sequence_as(layer.input, inputs)
        return _copy_structure(layer, settings, copy_layer, copies, inputs)

    def call(operation, *args, **kwargs):
        for name, path, bound in keys.get(id(operation), ()):
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
            # It may have become a micro layer since the graph was read.
            layer = plain_operation(node.layer)
            settings[layer].append((*node.setting, len(kept)))
        if node.weight is not None:
            indices[id(node.weight)][node.axis] = kept
    for layer, nodes in averaging_nodes(graph).items():
        if isinstance(layer, MicroAveraging):
            kept = {axis: np.flatnonzero(keep[x.channels]) for axis, x in nodes.items()}
            indices[id(layer.channels_mask.mask)] = kept
    return settings, indices


def _changed(layer, settings):
    """Return the new arguments of a layer or operation."""
    changed, config = {}, plain_operation(layer).get_config()
    for name, index, length in settings:
        if name in config:
            old = changed.get(name, config[name])
            if name == "indices_or_sections" and isinstance(old, int):
                old = [0] * (old - 1)  # as many bounds
            path = index if isinstance(index, tuple) else (index,)
            changed[name] = _replaced(old, path, length)
    return changed


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
