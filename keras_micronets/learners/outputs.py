"""Describe models: their outputs, architecture and estimated size."""

import hashlib
import json
from typing import Any

import keras
import numpy as np

from keras_micronets import layers
from keras_micronets.edge.tasks import TASKS, to_predictions
from keras_micronets.export.flatbuffer import gzip_size

__all__ = ["architecture_hash", "describe", "infer_from_logits", "infer_task"]

_CATEGORICAL_LOSSES = (
    "categoricalcrossentropy",
    "sparsecategoricalcrossentropy",
    "categoricalfocalcrossentropy",
    "categoricalgeneralizedcrossentropy",
    "kldivergence",
)
_BINARY_LOSSES = ("binarycrossentropy", "binaryfocalcrossentropy", "bce")
_NUMBER_LOSSES = (
    "meansquarederror",
    "mse",
    "meanabsoluteerror",
    "mae",
    "meanabsolutepercentageerror",
    "mape",
    "meansquaredlogarithmicerror",
    "msle",
    "huber",
    "logcosh",
    "poisson",
)
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
    return False if last_activation(model) in normalizing else None


def last_activation(model: keras.Model) -> Any:
    """Return the activation of a model's last layer, or `None`."""
    last = model.layers[-1] if model.layers else model
    if isinstance(last, keras.layers.Softmax):
        return keras.activations.softmax
    return getattr(last, "activation", None)


def output_shape(model: keras.Model) -> Any:
    """Return the shape of a built model's output, also of a subclassed model."""
    if hasattr(model, "output_shape"):
        return model.output_shape
    outputs = model(keras.KerasTensor(model.get_build_config()["input_shape"]))
    return keras.tree.map_structure(lambda tensor: tensor.shape, outputs)


def infer_task(model: keras.Model) -> str:
    """Return the task of a model, one of `edge.TASKS`.

    The compiled loss decides, then the last activation and the shapes: a crossentropy
    or an error whose outputs have the shape of the inputs is that of an autoencoder.
    Without a loss, softmax, sigmoid or a single unit tell; otherwise the model is
    a classifier.
    """
    loss = getattr(model, "loss", None)
    loss = getattr(loss, "loss", None) or loss  # the hard loss of a Distillation
    name = loss if isinstance(loss, str) else getattr(loss, "__name__", "")
    name = (name or type(loss).__name__).lower().replace("_", "")
    activation = last_activation(model)
    shape: Any = output_shape(model)
    if not _is_shape(shape):  # several outputs
        return "multiclass"
    outputs = shape[1:]
    is_single = outputs == (1,)
    if activation is keras.activations.softmax or name in _CATEGORICAL_LOSSES:
        return "multiclass"
    if name in _BINARY_LOSSES + _NUMBER_LOSSES:
        if outputs == input_shape(model) and not is_single:
            return "reconstruction"
        if name in _NUMBER_LOSSES:
            return "regression"
        return "binary" if is_single else "multilabel"
    if activation is keras.activations.sigmoid:
        return "binary" if is_single else "multilabel"
    return "regression" if is_single else "multiclass"


def input_shape(model: keras.Model) -> tuple | None:
    """Return the shape of a model's only input without the batch, or `None`."""
    shape: Any = getattr(model, "input_shape", None)
    return shape[1:] if _is_shape(shape) else None


def _is_shape(shape):
    return isinstance(shape, tuple) and all(n is None or type(n) is int for n in shape)


def check_output_shape(shape: Any, name: str, task: str) -> tuple[int, ...]:
    """Return the shape of a model's output without the batch.

    Raises:
        ValueError: If the task is unknown, or the output does not suit it.
    """
    if task not in TASKS:
        raise ValueError(f"Expected a task out of {TASKS}. Received: task={task!r}.")
    match shape:
        case (_, *outputs) if outputs and all(isinstance(n, int) for n in outputs):
            is_flat = len(outputs) == 1 or task in ("regression", "reconstruction")
            if is_flat and (task != "binary" or outputs == [1]):
                return tuple(outputs)
    expected = {
        "multiclass": "a classifier: one output of shape (samples, classes)",
        "binary": "a binary classifier: one output of shape (samples, 1)",
        "multilabel": "one output of shape (samples, labels)",
    }.get(task, "one output of a known shape (samples, *outputs)")
    raise ValueError(
        f"Expected {expected}. Received: {name!r} with output shape {shape}, for "
        f"task={task!r}. Pass the right `task`, and of several outputs the one to use "
        "as `output`."
    )


def predictions_of(
    outputs: Any, from_logits: bool | None, *, task: str, quantized: bool
) -> np.ndarray:
    """Return the predictions for a model's outputs, see `edge.to_predictions`.

    Args:
        outputs: Array of shape `(samples, *outputs)`.
        from_logits: Whether they are logits; `None` if that is unknown.
        task: One of `edge.TASKS`.
        quantized: Whether the model simulates 8-bit integers: its probabilities are
            multiples of 1/256, and are scaled to sum to one.
    """
    return to_predictions(
        np.asarray(outputs, "float32"),
        task=task,
        from_logits=bool(from_logits),
        scale=1 / 256 if quantized else 0.0,
    )


def single_output(model: keras.Model, output: str | int | None) -> keras.Model:
    """Return a model with one of the outputs of a functional model.

    It shares the layers, and is compiled with the loss of that output, which tells its
    task. With `output=None` the model itself is returned.
    """
    if output is None:
        return model
    outputs: Any = getattr(model, "output", None)
    names = getattr(model, "output_names", ())
    if isinstance(outputs, dict):
        by_name: dict[Any, Any] = dict(outputs)
    elif isinstance(outputs, list | tuple):
        by_name = dict(zip(names, outputs, strict=True))
    else:
        raise ValueError(
            "Expected a functional model with several outputs. Received: "
            f"{model.name!r} and output={output!r}. Leave `output` out."
        )
    if isinstance(output, int) and 0 <= output < len(by_name):
        output = [*by_name][output]
    if output not in by_name:
        raise ValueError(
            f"Expected one of the outputs {[*by_name]}. Received: output={output!r}."
        )
    single = keras.Model(model.input, by_name[output], name=model.name)
    loss: Any = getattr(model, "loss", None)
    if isinstance(loss, dict):
        loss = loss.get(output)
    elif isinstance(loss, list | tuple):
        loss = loss[[*by_name].index(output)]
    if loss is not None:
        single.compile(loss=loss)
    return single


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
