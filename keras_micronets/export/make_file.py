"""Convert a model to a `.tflite` file, run the file and compare it with the model."""

import functools
import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_micronets import _keras_private
from keras_micronets.export.conversion.converter import INTEGERS, convert
from keras_micronets.export.flatbuffer import read_flatbuffer
from keras_micronets.export.model_graph import call_flat, output_names
from keras_micronets.export.report import ExportReport, Parity
from keras_micronets.export.tflite_model import ConvertedFile, TensorInfo, TFLiteModel
from keras_micronets.export.workers import check_file
from keras_micronets.layers import constant_quantizers, kernels, quantized_share

__all__ = ["compare", "make_file", "prefer_sparse"]

N_COMPARED = 64
LEARNED, MEASURED = "learned", "representative data"


def make_file(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    quantization: str | None,
    samples: list[np.ndarray] | None,
    batch_size: int | None,
    shapes: list[tuple[int | None, ...]] | None = None,
    sparse_storage: bool,
) -> ConvertedFile:
    """Convert a model, run the file, and compare it with the model.

    Args:
        model: A built model on the TensorFlow backend, with inputs to read.
        path: Path of the file, for the report; nothing is written.
        samples: Array `(samples, ...)` for each input, or `None`.
        shapes: Shape of each input without the batch, `None` for open sizes. Defaults
            to `None`, the shapes of the model's inputs.
        quantization, batch_size, sparse_storage: As for `export_tflite`.
    """
    calibration = _calibration(model, quantization)
    to_bytes = functools.partial(
        convert,
        model,
        quantization=quantization,
        samples=samples if calibration == MEASURED else None,
        batch_size=batch_size,
        shapes=shapes,
    )
    content, storage = to_bytes(), None
    file = _load(content, model.name)
    inputs = _inputs(model, file, samples)
    if sparse_storage:
        content, storage = prefer_sparse(content, to_bytes, inputs)
        file = _load(content, model.name)
    flatbuffer = read_flatbuffer(content)
    report = ExportReport(
        path=Path(path),
        quantization=quantization,
        calibration=calibration,
        n_bytes=flatbuffer.n_bytes,
        gzip_bytes=flatbuffer.gzip_bytes,
        operations=flatbuffer.operations,
        float_operations=flatbuffer.float_operations,
        weight_bytes=flatbuffer.weight_bytes,
        sparse_storage=storage,
        n_masked=sum(k.size - int(k.mask.sum()) for k in kernels(model)),
        n_zeros=flatbuffer.n_zeros,
        n_weights=flatbuffer.n_weights,
        latency=file.latency(),
        n_compared=len(inputs[0]),
        compared_on="noise" if samples is None else MEASURED,
        outputs=_compare_outputs(model, file, inputs, learned=calibration == LEARNED),
    )
    _check_biases(flatbuffer, report, model.name)
    return ConvertedFile(content, report, file)


def _calibration(model, quantization):
    """Return where the ranges of an integer file come from, `None` for others."""
    if quantization == "int8" and quantized_share(model) > 0:
        return LEARNED
    return MEASURED if quantization in INTEGERS else None


def _load(content, name):
    check_file(content, name)
    try:
        file = TFLiteModel(content, name)
        file.run([np.zeros(info.shape, "float32") for info in file.inputs])
        return file
    except (ValueError, RuntimeError) as error:  # when it loads, or when it runs
        reason = error.__cause__ or error
        raise ValueError(
            "Expected weights and ranges from which LiteRT can run a file. "
            f"Received: {name!r}, whose file LiteRT rejects: {reason} Look for "
            "extreme weights, data that activates nothing, and input sizes that the "
            "model leaves open, which `input_shape` sets; `quantization=None` writes a "
            "file without ranges."
        ) from error


def _check_biases(flatbuffer, report, name):
    if flatbuffer.n_saturated and report.largest_difference > 1:
        raise ValueError(
            "Expected biases that fit the int32 of the file. Received: "
            f"{flatbuffer.n_saturated} of {name!r} that do not, which moves its "
            f"outputs by {report.largest_difference:.0f} steps: a bias is stored in "
            "units of the kernel's step times the input's, and these are too small "
            "for it. Put batch normalisation after such kernels, or export with "
            "representative data before quantisers are active."
        )


def _compare_outputs(model, file, inputs, *, learned) -> tuple[Parity, ...]:
    # Learned quantisers stay as they are: constant ones round otherwise than a device.
    with nullcontext() if learned else constant_quantizers(model, keep=False):
        expected = [keras.ops.convert_to_numpy(y) for y in call_flat(model, inputs)]
    raw = file.run(inputs)
    return tuple(map(compare, output_names(model), file.outputs, raw, expected))


def _inputs(model, file, samples):
    """Return inputs to compare on: given samples, or noise in the range of each."""
    if samples is not None:
        return [x[:N_COMPARED] for x in samples]
    rng = np.random.default_rng(0)
    return [
        _noise(info, tensor.dtype, _limits(model, tensor), rng)
        for info, tensor in zip(file.inputs, model.inputs, strict=True)
    ]


def _noise(info, dtype, limits, rng):
    shape = (N_COMPARED, *info.shape[1:])
    if keras.backend.is_int_dtype(dtype):
        lower, upper = limits or (0, 0)  # others may be out of the range of an index
        return rng.integers(lower, upper, shape, endpoint=True).astype(info.dtype)
    lower, upper = info.limits() or limits or (0.0, 1.0)
    return rng.uniform(lower, upper, shape).astype("float32")


def _limits(model, tensor):
    """Return the smallest and largest value that the readers of an input expect."""
    if not _keras_private.is_functional(model):
        return None
    source, _ = _keras_private.producer(tensor)
    limits = [
        limits
        for producer, reader, _ in _keras_private.edges(model)
        if producer is source and (limits := _limits_of(reader)) is not None
    ]
    return (max(x for x, _ in limits), min(x for _, x in limits)) if limits else None


def _limits_of(reader):
    if isinstance(reader, keras.layers.Embedding):
        # Zero may be a mask, and the mean of values that are all masked is no number.
        return int(reader.mask_zero), reader.input_dim - 1
    if isinstance(reader, keras.layers.Rescaling) and np.all(reader.scale):
        largest = (1 - np.ravel(reader.offset)[0]) / np.ravel(reader.scale)[0]
        return (0, round(largest)) if largest > 0 else (round(largest), 0)
    return None


def prefer_sparse(
    dense: bytes, convert: Callable[..., bytes], inputs: list[np.ndarray]
) -> tuple[bytes, str]:
    """Return a file without stored zeros if it is valid and smaller.

    `convert(sparse=True)` converts it; the two are compared on `inputs`. Also return
    the words for the report.
    """
    try:
        sparse = convert(sparse=True)
        check_file(sparse, "the sparse file")
        outputs = TFLiteModel(sparse, "the sparse file").run(inputs)
    except (ValueError, RuntimeError):
        return dense, "not kept: LiteRT does not run the sparse file"
    if len(sparse) >= len(dense):
        return dense, f"not kept: {len(sparse) - len(dense):,} bytes more"
    if not all(map(_agree, outputs, TFLiteModel(dense, "the file").run(inputs))):
        return dense, "not kept: the sparse file returns other values"
    return sparse, f"kept: {len(dense) - len(sparse):,} bytes less"


def _agree(one, other):
    """Return whether outputs differ by a step, or by float rounding, at most."""
    difference = np.abs(one.astype("float64") - other)
    is_integer = np.issubdtype(other.dtype, np.integer)
    return difference.max() <= (1 if is_integer else 1e-4 * np.abs(other).max())


def compare(name: str, output: TensorInfo, raw: Any, expected: np.ndarray) -> Parity:
    """Compare an output of a file, in its own dtype, with the Keras model's."""
    if not np.isfinite(raw).all():
        raise ValueError(
            "Expected finite outputs from the exported file. Received: "
            f"{np.sum(~np.isfinite(raw))} values that are not, for output {name!r}. "
            "Check the model's weights and its predictions in Keras."
        )
    rounded = output.quantize(expected)
    difference = np.abs(raw.astype("float64") - rounded)
    is_index = not output.scale and not np.issubdtype(raw.dtype, np.floating)
    same = raw == rounded if is_index else raw.argmax(-1) == rounded.argmax(-1)
    return Parity(
        name=name,
        largest_difference=float(difference.max()),
        share_within_one_step=float(np.mean(difference <= 1)) if output.scale else None,
        top1_agreement=float(np.mean(same)),
    )
