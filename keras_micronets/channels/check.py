"""Check that a cut model predicts what the whole one does without these channels."""

from collections import defaultdict
from collections.abc import Mapping
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_micronets import _keras_private
from keras_micronets.channels.graph import ChannelGraph
from keras_micronets.channels.masking import read_mask, reading_nodes
from keras_micronets.layers.litert.capabilities import plain_operation
from keras_micronets.layers.micro.precision import full_precision
from keras_micronets.layers.state import Mask, Quantizer

__all__ = ["check_cut"]

MAGNITUDES = (0.3, 3.0)
UNKNOWN_LENGTH, BATCH = 16, 2
TOLERANCE = 1e-4  # relative to the largest output


def check_cut(
    model: keras.Model,
    small: keras.Model,
    graph: ChannelGraph,
    keep: np.ndarray,
    copies: Mapping[keras.Operation, keras.Operation],
) -> None:
    """Raise an error if a cut model differs from the whole one without the channels.

    Both predict random inputs of two magnitudes; kernels of the whole model read zeros
    in place of the channels. A mean over channels, as in a `LayerNormalization`, would
    include them: it is taken over the kept channels in both.

    Args:
        model: The whole model, which is not changed.
        small: The cut model.
        graph: The `ChannelGraph` of the whole one.
        keep: Boolean array `(channels,)`, the channels that are kept.
        copies: Dictionary from each layer and operation to its copy in the cut model.

    Raises:
        ValueError: If an output differs.
    """
    rng = np.random.default_rng(0)
    plain = [*_without_state(model), *_without_state(small)]
    values = [*_without_channels(graph, keep), *plain]
    for magnitude in MAGNITUDES:
        x = keras.tree.map_structure(
            lambda tensor, by=magnitude: _random(model, tensor, by, rng), _inputs(model)
        )
        averages = _averages_of_kept(graph, keep, copies)
        with full_precision(model), full_precision(small), averages:
            whole = _predict(model, x, values)
            difference, largest = _difference(whole, _predict(small, x, plain))
            if difference <= TOLERANCE * largest + TOLERANCE**2:
                continue
            layer = _begins(model, small, x, values)
            raise ValueError(
                f"Expected {model.name!r} without channels to predict what it does "
                f"with zeros in their place. Received: outputs that differ by "
                f"{difference:.2g}, of at most {largest:.2g}, beginning at {layer}, "
                "which treats channels by their place or number. Leave the layers "
                "before it out of the `scope`."
            )


def _without_channels(graph, keep):
    """Return kernels with their values, zero where they read cut channels."""
    for nodes in reading_nodes(graph).values():
        kernel, mask = nodes[0].weight, read_mask(nodes, keep)
        if not mask.all():
            yield kernel, ops.convert_to_numpy(kernel) * mask


def _without_state(model):
    """Return the variables of masks and quantisers with the values of a plain model."""
    for layer in _keras_private.flatten_layers(model):
        if isinstance(layer, Mask):
            yield layer.mask, np.ones(layer.mask.shape, bool)
        elif isinstance(layer, Quantizer):
            yield layer.active, np.zeros((), bool)


@contextmanager
def _averages_of_kept(graph, keep, copies):
    """Let what averages over channels call its copy, with the kept channels only."""
    originals = {plain_operation(original): original for original in copies}
    taken = defaultdict(dict)
    for node in graph.nodes:
        if node.role == "averages":
            layer = originals[plain_operation(node.layer)]
            taken[layer][node.axis] = keep[node.channels]
    try:
        for original, axes in taken.items():
            # Past Keras's `__setattr__`, which would track the copy.
            vars(original)["call"] = _call_of_kept(copies[original], axes)
        yield
    finally:
        for original in taken:
            vars(original).pop("call", None)


def _call_of_kept(copy, axes):
    def call(x, **_):
        for axis, kept in axes.items():
            x = ops.take(x, np.flatnonzero(kept), axis)
        outputs = copy(x)
        if isinstance(copy, keras.Layer):  # others have no such axis left
            for axis, kept in axes.items():
                zero = ops.zeros_like(ops.take(outputs, [0], axis))
                index = np.where(kept, np.cumsum(kept), 0)
                padded = ops.concatenate([zero, outputs], axis)
                outputs = ops.take(padded, index, axis)
        return outputs

    return call


def _inputs(model):
    """Return the symbolic inputs, in the structure that the model takes."""
    is_sequential = isinstance(model, keras.Sequential)
    return model.inputs[0] if is_sequential else model.input


def _random(model, tensor, magnitude, rng):
    shape = [BATCH, *(length or UNKNOWN_LENGTH for length in tensor.shape[1:])]
    if keras.backend.is_float_dtype(tensor.dtype):
        return rng.normal(0, magnitude, shape).astype("float32")
    sizes = [
        layer.input_dim
        for layer in _keras_private.flatten_layers(model)
        if isinstance(layer, keras.layers.Embedding)
    ]
    return rng.integers(0, min(sizes, default=2), shape).astype(tensor.dtype)


def _predict(model, x, values=()):
    mapping = [(variable, ops.convert_to_tensor(value)) for variable, value in values]
    with keras.StatelessScope(state_mapping=mapping):
        outputs = model(x, training=False)
    return [ops.convert_to_numpy(output) for output in keras.tree.flatten(outputs)]


def _difference(first, second):
    """Return the largest difference of the outputs, and the largest output."""
    if [x.shape for x in first] != [x.shape for x in second]:
        return float("inf"), 0.0
    differences = [np.abs(a - b).max() for a, b in zip(first, second, strict=True)]
    return float(max(differences)), float(max(np.abs(x).max() for x in first))


def _begins(model, small, x, values):
    """Return the first layer whose output has its old shape and other values."""
    for layer in model.layers:
        found: Any = [one for one in small.layers if one.name == layer.name]
        try:
            models = [keras.Model(_inputs(model), layer.output)]
            models.append(keras.Model(_inputs(small), found[0].output))
            outputs = _predict(models[0], x, values), _predict(models[1], x)
        except (AttributeError, IndexError, ValueError):  # shared, or not in a graph
            continue
        difference, largest = _difference(*outputs)
        if np.isfinite(difference) and difference > TOLERANCE * largest:
            return f"{layer.name!r}"
    return "its outputs"
