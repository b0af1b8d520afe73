"""Export a Keras model as a `.tflite` file."""

import os
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_micronets.export.atomic import write_atomically
from keras_micronets.export.conversion.channels_last import to_channels_last
from keras_micronets.export.conversion.converter import INTEGERS, QUANTIZATIONS
from keras_micronets.export.make_file import make_file
from keras_micronets.export.model_graph import with_graph
from keras_micronets.export.report import ExportReport
from keras_micronets.export.representative_data import read_samples
from keras_micronets.export.subprocess_converter import (
    check_converter,
    make_file_in_subprocess,
)
from keras_micronets.export.tflite_model import ConvertedFile
from keras_micronets.layers import quantized_share
from keras_micronets.layers.micro.precision import full_precision
from keras_micronets.layers.quantizers.input_scales import warn_of_samples

__all__ = ["check_path", "convert_tflite", "export_tflite"]

FLOAT16_LIMITS = (float(np.finfo("float16").tiny), float(np.finfo("float16").max))


def export_tflite(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    quantization: str | None = "int8",
    representative_data: Any = None,
    batch_size: int | None = 1,
    input_shape: Any = None,
    sparse_storage: bool = False,
) -> ExportReport:
    """Write a Keras model as a `.tflite` file, verified before it is put in place.

    A model trained with `QuantizationAwareTraining` becomes an integer file with the
    ranges it learned and needs no data. Any other model becomes an integer file by
    post-training quantisation, with ranges measured on representative data. LiteRT
    loads and runs the file, and each output is compared with the Keras model's.

    A model that trains in mixed precision is exported, and compared, in float32. One of
    `channels_first` layers is exported with its channels last, and compared so; its
    inputs and outputs keep their shapes.

    LiteRT loads each file first in a separate process, because a file can crash it.
    That raises an error, and the model in memory survives.

    Representative data of a range too small for integers, or with features that become
    zero beside larger ones, provoke a warning.

    The converter is TensorFlow's. With Keras on JAX or PyTorch it runs in a separate
    process, too, and the comparison is with the model as TensorFlow computes it. This
    process needs some seconds to start and is kept for further exports, except of
    models with custom layers, until Python ends.

    Args:
        model: A built Keras model, plain or prepared, with any number of inputs and
            outputs; the file has them in the order of `model.inputs` and
            `model.outputs`.
        path: Path of the file; must end in `.tflite`. An older file is replaced.
        quantization: `"int8"` (integers throughout, int8 input and output; with learned
            ranges float ones, where an operation in float reads the input or makes the
            output), `"int16"` (int8 weights, int16 for everything else, input and
            output included; always needs representative data), `"float16"` (weights),
            `"dynamic"` (int8 weights, float computation) or `None` (float32). With
            `"int8"`, kernels that learned 2 to 4 bits are packed in 4 bits, as
            `weight_bytes` of the report shows. Defaults to `"int8"`.
        representative_data: Some hundred typical inputs for post-training
            quantisation and for the comparison. An array `(samples, ...)`; for
            several inputs a tuple of arrays in the order of `model.inputs`, or a
            dictionary by their names; or batches of these: a `tf.data.Dataset`, a
            `keras.utils.PyDataset` or any iterable, of which the first 1,000 samples
            are read. Of pairs `(x, y)`, only `x` is used. A model with learned ranges
            keeps them in an int8 file: the data are then used for the comparison only.
            Defaults to `None`.
        batch_size: Integer, samples per invocation of the file. `None` leaves it open,
            for LiteRT's `resize_tensor_input` to set; that costs three small
            operations (SHAPE, STRIDED_SLICE, PACK) at each `Flatten` or `Reshape`.
            Defaults to `1`.
        input_shape: Tuple of the sizes of a sample, such as `(96, 96, 3)`, for a model
            that leaves sizes open (height, width, time); for several inputs a list of
            tuples in the order of `model.inputs`. Defaults to `None`: the file leaves
            them open, too, for `resize_tensor_input`. It is compared at the size of the
            representative data, or at 32. Not all layers allow open sizes.
        sparse_storage: Boolean, whether to try a file that leaves the zeros out. It is
            kept if LiteRT runs it, it agrees with the dense file, and it is smaller;
            the report says so. LiteRT runs int8 files whose `Dense` kernels have
            zeros in blocks of 16 inputs, and unpacks float files as it loads them.
            Gzip compresses the zeros as well. Defaults to `False`.

    Returns:
        An `ExportReport`: sizes, operations, zeros, parity, latency. It prints as a
        table.

    Raises:
        ValueError: If an argument is invalid, the weights are not finite or do not fit
            the file's types, an integer export has neither learned ranges nor
            representative data, TensorFlow is not installed, its converter rejects the
            model, or the file crashes LiteRT, does not run or gives outputs that are
            not finite. Nothing is written then.

    Example:

    ```python
    report = keras_micronets.export_tflite(
        model, "model.tflite", representative_data=x_train
    )
    print(report)
    ```
    """
    path = check_path(path)
    file = convert_tflite(
        model,
        path,
        quantization=quantization,
        representative_data=representative_data,
        batch_size=batch_size,
        input_shape=input_shape,
        sparse_storage=sparse_storage,
    )
    write_atomically(path, file.content)
    return file.report


def convert_tflite(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    quantization: str | None = "int8",
    representative_data: Any = None,
    batch_size: int | None = 1,
    input_shape: Any = None,
    sparse_storage: bool = False,
) -> ConvertedFile:
    """Do all that `export_tflite` does, except to write the file.

    Args:
        path: Path for the report.
        model, quantization, representative_data, batch_size, input_shape,
            sparse_storage: As for `export_tflite`.
    """
    _check_options(quantization, batch_size)
    check_converter()
    model = to_channels_last(with_graph(model))
    _check_weights(model, quantization)
    shapes = _shapes(model, input_shape)
    is_here = keras.backend.backend() == "tensorflow"
    make = make_file if is_here else make_file_in_subprocess
    with full_precision(model):
        samples = read_samples(representative_data, model, shapes)
        _check_ranges(model, quantization, samples)
        file = make(
            model,
            path,
            quantization=quantization,
            samples=samples,
            batch_size=batch_size,
            shapes=shapes,
            sparse_storage=bool(sparse_storage),
        )
    if samples is not None and quantization in INTEGERS:
        learned = file.report.calibration == "learned"
        warn_of_samples(model, samples, quantization, learned=learned)
    quantized = [x for x in file.report.outputs if x.share_within_one_step is not None]
    steps = max((x.largest_difference for x in quantized), default=0.0)
    if file.report.calibration == "learned" and steps > 1:
        warnings.warn(
            f"The int8 file of {model.name!r} differs from its simulation in Keras by "
            f"{steps:.0f} steps at most.",
            stacklevel=3,
        )
    return file


def check_path(path: str | os.PathLike) -> Path:
    """Return a path, if a `.tflite` file can be written there.

    Raises:
        ValueError: If it has another suffix or is a folder.
    """
    path = Path(path)
    if path.suffix != ".tflite" or path.is_dir():
        raise ValueError(
            f"Expected a file path that ends in .tflite. Received: {str(path)!r}."
        )
    return path


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


def _shapes(model, input_shape):
    """Return the shape of each input, with the sizes that are given."""
    open_shapes = [tuple(tensor.shape[1:]) for tensor in model.inputs]
    if input_shape is None:
        return open_shapes
    several = len(open_shapes) > 1
    shapes = [tuple(shape) for shape in (input_shape if several else [input_shape])]
    if len(shapes) != len(open_shapes) or not all(map(_fits, shapes, open_shapes)):
        raise ValueError(
            "Expected `input_shape` with a positive size in the place of each None of "
            f"{open_shapes if several else open_shapes[0]}. Received: "
            f"input_shape={input_shape!r}."
        )
    return shapes


def _fits(shape, open_shape):
    return len(shape) == len(open_shape) and all(
        isinstance(n, int) and n > 0 and expected in (None, n)
        for n, expected in zip(shape, open_shape, strict=True)
    )


def _check_ranges(model, quantization, samples):
    if quantization not in INTEGERS or samples is not None:
        return
    if quantization == "int16":
        raise ValueError(
            "Expected representative data to measure the ranges of an int16 file: "
            "those learned in training are for int8. Received: "
            "representative_data=None. Pass some hundred training inputs."
        )
    if not quantized_share(model):
        raise ValueError(
            "Expected a model with learned ranges, or representative data to measure "
            f"them. Received: {model.name!r} without active quantisers and "
            "representative_data=None. Train with `QuantizationAwareTraining`, or "
            "pass some hundred training inputs."
        )


def _check_weights(model, quantization):
    values = {
        variable.path: keras.ops.convert_to_numpy(variable)
        for variable in model.variables
        if "float" in variable.dtype
    }
    broken = [path for path, value in values.items() if not np.isfinite(value).all()]
    if broken:
        raise ValueError(
            f"Expected a model whose weights are finite. Received: {model.name!r} with "
            f"NaN or infinity in {', '.join(broken[:5])}. Its training diverged: try a "
            "smaller learning rate, or an earlier checkpoint."
        )
    if quantization == "float16":
        _check_float16({path: x for path, x in values.items() if x.ndim > 1})


def _check_float16(kernels):
    lower, upper = FLOAT16_LIMITS
    sizes = {path: float(np.abs(x).max(initial=0)) for path, x in kernels.items()}
    broken = {p: size for p, size in sizes.items() if size and not lower < size < upper}
    if broken:
        path, size = next(iter(broken.items()))
        raise ValueError(
            f"Expected kernels whose largest weight float16 can hold, from {lower:.2g} "
            f"to {upper:.0f}. Received: {path} with {size:.3g}, one of {len(broken)} "
            "kernels. Choose another `quantization`."
        )
