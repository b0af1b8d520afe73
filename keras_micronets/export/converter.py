import contextlib
import io
import logging
import os
import warnings

import keras
import numpy as np

from keras_micronets.layers import freeze_quantizers

QUANTIZATIONS = ("int8", "float16", "dynamic", None)


def check_backend() -> None:
    """Raise a `ValueError` unless Keras runs on TensorFlow, whose converter is used."""
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ValueError(
            "Expected Keras on TensorFlow, whose converter writes `.tflite` files. "
            f"Received: Keras on {backend!r}. Save the model as `.keras`, as a "
            "`LearnerPool` does, and export it in a process started with "
            "KERAS_BACKEND=tensorflow."
        )


def convert(
    model: keras.Model,
    *,
    quantization: str | None,
    representative_data: np.ndarray | None = None,
) -> bytes:
    """Convert a Keras model to the bytes of a `.tflite` file, batch size 1.

    Args:
        model: A built model on the TensorFlow backend. Its active fake quantisers
            become the file's scales where `quantization` is `"int8"`, and are left
            out otherwise.
        quantization: `"int8"`, `"float16"`, `"dynamic"` or `None`.
        representative_data: Array of inputs to measure ranges on, for `"int8"`
            without learned ranges; `None` otherwise. Defaults to `None`.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    learned = quantization == "int8" and representative_data is None
    with freeze_quantizers(model, keep=learned), _quiet():
        shapes = [(1, *x.shape[1:]) for x in model.inputs]
        signature = [
            tf.TensorSpec(shape, x.dtype)
            for shape, x in zip(shapes, model.inputs, strict=True)
        ]
        forward = tf.function(lambda x: model(x, training=False), signature)
        # Variables would stay variables in the file, and the scales that depend
        # on them be unknown to the converter. Frozen, they need no model beside
        # them, with which the same conversion takes five times as long.
        frozen = convert_variables_to_constants_v2(forward.get_concrete_function())
        converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
        _set_quantization(tf, converter, quantization, representative_data)
        return converter.convert()


def _set_quantization(tf, converter, quantization, representative_data):
    if quantization is None:
        return
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantization == "int8":
        converter.inference_input_type = tf.int8
        converter.inference_output_type = tf.int8
    if representative_data is not None:
        # Only with calibration: learned ranges with this set demand it too.
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.representative_dataset = lambda: (
            [sample[None]] for sample in representative_data
        )


@contextlib.contextmanager
def _quiet():
    """Hold back what the converter prints; its errors come as exceptions."""
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
