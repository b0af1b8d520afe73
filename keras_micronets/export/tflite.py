"""Weights of which no sound file comes."""

import os
import warnings
from pathlib import Path

import keras
import numpy as np

from keras_micronets.export.atomic import write_atomically
from keras_micronets.export.converter import INTEGERS, QUANTIZATIONS
from keras_micronets.export.make_file import make_file
from keras_micronets.export.model_graph import full_precision, with_graph
from keras_micronets.export.report import ExportReport
from keras_micronets.export.representative_data import read_samples
from keras_micronets.export.subprocess_converter import (
    check_converter,
    make_file_in_subprocess,
)
from keras_micronets.layers import quantized_share


def export_tflite(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    quantization: str | None = "int8",
    representative_data=None,
    batch_size: int | None = 1,
    sparse_storage: bool = False,
) -> ExportReport:
    """Write a Keras model as a `.tflite` file, and prove that the file works.

    A model trained with `QuantizationAwareTraining` becomes an integer file with
    the ranges it learned; no data is needed. Any other model becomes an integer
    file by post-training quantisation, its ranges measured on representative data.
    The file is loaded by LiteRT, run, and compared with the Keras model, output by
    output, before it is put in place.

    A model that trains in mixed precision is exported, and compared, in float32.

    The converter is TensorFlow's. With Keras on JAX or PyTorch it runs in a process
    of its own, which takes some seconds more, and the comparison is with the model
    as TensorFlow computes it.

    Args:
        model: A built Keras model, plain or prepared, with any number of
            inputs and outputs. The file has them in the order of
            `model.inputs` and `model.outputs`.
        path: Where to write; must end in `.tflite`. An older file is replaced.
        quantization: `"int8"` (integers throughout, int8 input and output),
            `"int16"` (the same with int8 weights and int16 for everything else,
            input and output included; always needs representative data),
            `"float16"` (weights), `"dynamic"` (int8 weights, float computation)
            or `None` (float32). Kernels that learned 2 to 4 bits are packed in
            four by `"int8"`, as `weight_bytes` in the report shows. Defaults to
            `"int8"`.
        representative_data: Some hundred typical inputs for post-training
            quantisation. An array `(samples, ...)`; for several inputs a tuple of
            arrays in the order of `model.inputs`, or a dictionary by their names;
            or batches of these: a `tf.data.Dataset`, a `keras.utils.PyDataset`, any
            iterable, of which the first 1,000 samples are read. Pairs `(x, y)` give
            their `x`. They also serve for the comparison. An int8 file of a model
            with learned ranges keeps these. Defaults to `None`.
        batch_size: Integer, samples that the file takes at once. `None` leaves it
            open: LiteRT's `resize_tensor_input` then sets it, 1 until that is done.
            An open batch costs three small operations (SHAPE, STRIDED_SLICE, PACK)
            at each `Flatten` or `Reshape`, none elsewhere. Defaults to `1`.
        sparse_storage: Boolean, whether to try a file that leaves the zeros out.
            It is kept only if LiteRT runs it, it agrees with the dense file, and it
            is smaller; the report says what happened. LiteRT runs such int8 files of
            `Dense` kernels with zeros in blocks of 16 inputs, and no others with a
            `Dense` layer of many zeros; float files it unpacks as it loads them. A
            file's gzip leaves the zeros out as well. Defaults to `False`.

    Returns:
        An `ExportReport`: sizes, operations, zeros, parity, latency. It prints as a
        table.

    Raises:
        ValueError: If an argument is not one of those described, if the model has
            weights that are not finite or that the file's types cannot hold, if an
            int8 export has neither learned ranges nor representative data, if
            TensorFlow is not installed or its converter refuses the model, or if
            the file does not run or puts out numbers that are not finite. Nothing
            is written then.

    Example:

    ```python
    report = keras_micronets.export_tflite(model, "model.tflite")
    print(report)
    ```
    """
    path = check_path(path)
    _check_options(quantization, batch_size)
    check_converter()
    model = with_graph(model)
    check_weights(model, quantization)
    samples = read_samples(representative_data, model)
    _check_ranges(model, quantization, samples)
    make = (
        make_file
        if keras.backend.backend() == "tensorflow"
        else make_file_in_subprocess
    )
    with full_precision(model):
        content, report = make(
            model,
            path,
            quantization=quantization,
            samples=samples,
            batch_size=batch_size,
            sparse_storage=bool(sparse_storage),
        )
    _warn(report, model.name)
    write_atomically(path, content)
    return report


def _check_options(quantization, batch_size):
    if quantization not in QUANTIZATIONS:
        raise ValueError(
            f"Expected `quantization` to be one of {QUANTIZATIONS}. "
            f"Received: quantization={quantization!r}."
        )
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise ValueError(
            "Expected `batch_size` to be a positive integer, or None for an open "
            f"batch. Received: batch_size={batch_size!r}."
        )


def _check_ranges(model, quantization, samples):
    if quantization not in INTEGERS or samples is not None:
        return
    if quantization == "int16":
        raise ValueError(
            "Expected representative data to measure the ranges of an int16 file on: "
            "those learned in training are for int8. Received: "
            "representative_data=None. Pass some hundred training inputs."
        )
    if not quantized_share(model):
        raise ValueError(
            "Expected a model with learned ranges, or representative data to measure "
            f"them on. Received: {model.name!r} without active quantisers and "
            "representative_data=None. Train with `QuantizationAwareTraining`, or "
            "pass some hundred training inputs."
        )


def _warn(report, name):
    if report.calibration == "learned" and report.largest_difference > 1:
        warnings.warn(
            f"The int8 file of {name!r} differs from its simulation in Keras by "
            f"{report.largest_difference:.0f} steps at most.",
            stacklevel=3,
        )


def check_path(path: str | os.PathLike) -> Path:
    """Return the path of a `.tflite` file to be written.

    Raises:
        ValueError: If it is another's.
    """
    path = Path(path)
    if path.suffix != ".tflite" or path.is_dir():
        raise ValueError(
            f"Expected a file path that ends in .tflite. Received: {str(path)!r}."
        )
    return path


FLOAT16_LIMITS = (float(np.finfo("float16").tiny), float(np.finfo("float16").max))


def check_weights(model: keras.Model, quantization: str | None) -> None:
    """Raise a `ValueError` if a model's weights cannot go into a file.

    Args:
        model: A built model.
        quantization: As `export_tflite` takes it.
    """
    values = {
        variable.path: keras.ops.convert_to_numpy(variable)
        for variable in model.variables
        if "float" in variable.dtype
    }
    broken = [path for path, value in values.items() if not np.isfinite(value).all()]
    if broken:
        raise ValueError(
            f"Expected a model whose weights are finite. Received: {model.name!r} with "
            f"NaN or infinity in {', '.join(broken[:5])}. Its training went wrong: "
            "try a smaller learning rate, or an earlier checkpoint."
        )
    if quantization == "float16":
        _check_float16({path: x for path, x in values.items() if x.ndim > 1})


def _check_float16(kernels):
    lower, upper = FLOAT16_LIMITS
    sizes = {path: float(np.abs(x).max(initial=0)) for path, x in kernels.items()}
    outside = {
        p: size for p, size in sizes.items() if size and not lower < size < upper
    }
    if outside:
        path, size = next(iter(outside.items()))
        raise ValueError(
            f"Expected kernels whose largest weight float16 can hold, from {lower:.2g} "
            f"to {upper:.0f}. Received: {path} with {size:.3g}, one of {len(outside)} "
            "kernels. Choose another `quantization`."
        )
