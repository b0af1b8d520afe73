"""Convert a Keras model with TensorFlow's converter."""

import contextlib
import gc
import io
import logging
import os
import re
import warnings
from collections.abc import Sequence
from operator import attrgetter

import keras
import numpy as np

from keras_micronets import _keras_private
from keras_micronets.export.conversion.float_islands import float_islands
from keras_micronets.export.conversion.integer_ends import with_integer_ends
from keras_micronets.export.conversion.substitutes import substitutes
from keras_micronets.export.flatbuffer import shorten_names
from keras_micronets.export.model_graph import call_flat, input_names
from keras_micronets.layers import constant_quantizers

__all__ = ["INTEGERS", "QUANTIZATIONS", "convert"]

QUANTIZATIONS = ("int8", "int16", "float16", "dynamic", None)
# TensorFlow's name for integer operations throughout.
INTEGERS = {
    "int8": "TFLITE_BUILTINS_INT8",
    "int16": "EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8",
}


def convert(
    model: keras.Model,
    *,
    quantization: str | None,
    samples: list[np.ndarray] | None = None,
    batch_size: int | None = 1,
    shapes: Sequence[Sequence[int | None]] | None = None,
    sparse: bool = False,
) -> bytes:
    """Convert a Keras model to the bytes of a `.tflite` file.

    Args:
        model: A built model on the TensorFlow backend with known inputs. Its active
            fake quantisers become the file's scales if `quantization` is `"int8"` and
            there are no samples, and are left out otherwise.
        quantization: `"int8"`, `"int16"`, `"float16"`, `"dynamic"` or `None`.
        samples: Array `(samples, ...)` for each input to measure ranges on, for
            integer files without learned ranges. Defaults to `None`.
        batch_size: Integer, or `None` for an open batch. Defaults to `1`.
        shapes: Shape of each input without the batch; sizes that are `None` stay open.
            Defaults to `None`, the shapes of the model's inputs.
        sparse: Boolean, whether kernels with many zeros are stored without them.
            Defaults to `False`.

    Raises:
        ValueError: If TensorFlow cannot trace or convert the model.
    """
    shapes = shapes or [tensor.shape[1:] for tensor in model.inputs]
    signature = [(batch_size, *shape) for shape in shapes]
    learned = quantization == "int8" and samples is None
    with _free_graphs(), constant_quantizers(model, keep=learned), _quiet():
        content = _convert(model, quantization, samples, signature, sparse)
    # The one input of most models needs no name.
    names = input_names(model) if len(model.inputs) > 1 else ()
    return shorten_names(with_integer_ends(content) if learned else content, names)


def _convert(model, quantization, samples, signature, sparse):
    import tensorflow as tf

    function = _trace(tf, model, signature)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
    _set_quantization(tf, converter, quantization)
    if sparse:
        sparsity = tf.lite.Optimize.EXPERIMENTAL_SPARSITY
        converter.optimizations = [*converter.optimizations, sparsity]
    if samples is not None:
        _check_loops(function, model.name)
        _set_calibration(tf, converter, quantization, samples, signature[0][0] or 1)
    return _run(converter, function, model)


def _run(converter, function, model):
    try:
        return converter.convert()
    except Exception as error:  # the converter's own class is private to TensorFlow
        raise ValueError(
            "Expected a model that TensorFlow's converter can convert. Received: "
            f"{model.name!r}, which it rejects: {_reason(str(error), function, model)}"
        ) from error


def _reason(text, function, model):
    """Return the operations that the converter rejects, with the names of layers."""
    rejected = set(re.findall(r"'tf\.(\w+)' op", text))
    names = {layer.name for layer in _keras_private.flatten_layers(model)}
    found = {
        f"{node.type} of {_owner(node.name, names)}"
        for node in function.graph.get_operations()
        if node.type in rejected
    }
    if found:
        return f"LiteRT has no {', '.join(sorted(found))}. Replace these layers."
    return _first_line(re.sub(r"\S+\.py:\d+:\d+: ", "", text))[:500]


def _owner(name, layers):
    """Return the innermost layer of a name such as `net_1/dense_1/MatMul`."""
    scopes = name.split("/")[:-1]
    known = [x for y in scopes for x in (y, re.sub(r"_\d+$", "", y)) if x in layers]
    return repr(known[-1]) if known else "an operation outside of layers"


def _trace(tf, model, signature):
    inputs = zip(signature, model.inputs, strict=True)
    forward = tf.function(
        lambda *inputs: call_flat(model, inputs),
        [tf.TensorSpec(shape, tensor.dtype) for shape, tensor in inputs],
        autograph=False,
    )
    try:
        functions = _keras_private.backend_functions(substitutes())
        with functions, float_islands(model):
            return forward.get_concrete_function()
    except Exception as error:
        if all(None not in shape[1:] for shape in signature):
            raise
        raise ValueError(
            "Expected a model that TensorFlow can trace with open sizes, or "
            f"`input_shape`. Received: {model.name!r} with inputs of shape "
            f"{', '.join(map(str, signature))}, where a layer needs the sizes: "
            f"{_first_line(str(error))} Pass `input_shape`, such as (96, 96, 3)."
        ) from error


def _first_line(text):
    return text.strip().split("\n")[0]


def _check_loops(function, name):
    """Raise an error for loops, on which TensorFlow's calibration crashes."""
    graph = function.graph.as_graph_def()
    called = attrgetter("library.function")(graph)
    nodes = [*graph.node, *(x for one in called for x in one.node_def)]
    loops = [node.name for node in nodes if node.op in ("While", "StatelessWhile")]
    if loops:
        raise ValueError(
            "Expected a model without loops to measure ranges on data. Received: "
            f"{name!r} with {', '.join(loops)}. Give recurrent layers `unroll=True`, "
            "or export with `quantization='dynamic'` or `None`."
        )


def _set_quantization(tf, converter, quantization):
    if quantization is None:
        return
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]


def _set_calibration(tf, converter, quantization, samples, batch_size):
    converter.inference_input_type = tf.as_dtype(quantization)
    converter.inference_output_type = tf.as_dtype(quantization)
    # Set only with calibration: it makes the converter demand calibration.
    operations = getattr(tf.lite.OpsSet, INTEGERS[quantization])
    converter.target_spec.supported_ops = [operations]
    rows = [np.arange(i, i + batch_size) for i in range(0, len(samples[0]), batch_size)]
    converter.representative_dataset = lambda: (
        [x.take(r, axis=0, mode="clip") for x in samples] for r in rows
    )


@contextlib.contextmanager
def _free_graphs():
    """Free what is made inside: Python would collect it after many exports only."""
    gc.freeze()  # so that only new objects are searched
    try:
        yield
    finally:
        gc.collect()
        gc.unfreeze()


@contextlib.contextmanager
def _quiet():
    """Suppress the converter's output; its errors come as exceptions."""
    absl = logging.getLogger("absl")
    level = absl.level
    absl.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            _silent_stderr(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        absl.setLevel(level)


@contextlib.contextmanager
def _silent_stderr():
    # The converter logs from C++, past Python's sys.stderr.
    saved = os.dup(2)
    with open(os.devnull, "w") as null:
        os.dup2(null.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
