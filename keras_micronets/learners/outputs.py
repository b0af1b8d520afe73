"""Describe models: their outputs, architecture and estimated size."""

import hashlib
import json
from typing import Any

import keras
import numpy as np

from keras_micronets import layers
from keras_micronets.edge.member import normalize, softmax
from keras_micronets.export.flatbuffer import gzip_size

__all__ = ["architecture_hash", "describe", "infer_from_logits", "to_probabilities"]

_LEVELS = 127
_FLATBUFFER_BYTES = 2500  # the operations and scales of a small file


def infer_from_logits(model: keras.Model) -> bool | None:
    """Return whether a model's output is logits, or `None` if that is unknown.

    The `from_logits` of the compiled loss decides if it has one; else the output is
    probabilities if the last layer ends in a softmax or sigmoid.
    """
    from_logits = getattr(getattr(model, "loss", None), "from_logits", None)
    if from_logits is not None:
        return bool(from_logits)
    normalizing = (keras.activations.softmax, keras.activations.sigmoid)
    last = model.layers[-1] if model.layers else model
    if isinstance(last, keras.layers.Softmax):
        return False
    return False if getattr(last, "activation", None) in normalizing else None


def output_shape(model: keras.Model) -> Any:
    """Return the shape of a built model's output, also of a subclassed model."""
    if hasattr(model, "output_shape"):
        return model.output_shape
    outputs = model(keras.KerasTensor(model.get_build_config()["input_shape"]))
    return keras.tree.map_structure(lambda tensor: tensor.shape, outputs)


def count_classes(output_shape: Any, name: str) -> int:
    """Return the number of classes of a classifier with this output shape."""
    match output_shape:
        case (_, int(classes)):
            return classes
    raise ValueError(
        "Expected a classifier: one output of shape (samples, classes). "
        f"Received: {name!r} with output shape {output_shape}."
    )


def to_probabilities(
    outputs: Any, from_logits: bool | None, *, quantized: bool = False
) -> np.ndarray:
    """Return class probabilities for a model's outputs.

    Args:
        outputs: Array of shape `(samples, classes)`.
        from_logits: Whether they are logits.
        quantized: Whether the model simulates 8-bit integers: its probabilities are
            multiples of 1/256, and are scaled to sum to one. Defaults to `False`.
    """
    outputs = np.asarray(outputs, "float32")
    if from_logits:
        return softmax(outputs)
    return normalize(outputs, 1 / 256 if quantized else 0.0)


def describe(model: keras.Model) -> str:
    """Return how sparse a model is, and whether it simulates integers, in words."""
    quantized = layers.quantized_share(model) > 0
    text = f"sparsity {layers.sparsity(model):.3f}"
    return f"{text}, quantisation-aware" if quantized else text


def estimate_int8_gzip_size(model: keras.Model) -> int:
    """Estimate the gzipped size of a model's int8 file without converting it.

    Kernels count as the gzipped integers they round to, masked zeros included, and
    every other trainable weight as four bytes. Of a plain model, a copy is prepared.
    """
    if not layers.kernels(model):
        model = layers.clone(model)
        layers.prepare(model)
    kernels = layers.kernels(model)
    rounded = [_round(kernel.weights * kernel.mask) for kernel in kernels]
    trainable = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    n_others = trainable - sum(kernel.size for kernel in kernels)
    return gzip_size(b"".join(rounded)) + 4 * n_others + _FLATBUFFER_BYTES


def _round(weights):
    largest = np.abs(weights).max() or 1.0
    return np.rint(weights / largest * _LEVELS).astype("int8").tobytes()


def architecture_hash(model: keras.Model) -> str:
    """Return a hash that is equal for models that differ only in weights and names."""
    config = keras.saving.serialize_keras_object(model)
    config.pop("compile_config", None)
    names = {}
    _collect_names(config, names)
    text = json.dumps(_rename(config, names), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _collect_names(value, names):
    if isinstance(value, dict):
        name = value.get("name")
        if isinstance(name, str):
            names.setdefault(name, f"#{len(names)}")
        value = value.values()
    elif not isinstance(value, list | tuple):
        return
    for item in value:
        _collect_names(item, names)


def _rename(value, names):
    if isinstance(value, dict):
        return {key: _rename(item, names) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rename(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value
