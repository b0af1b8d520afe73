import os
import warnings
from pathlib import Path

import keras
import numpy as np

from keras_micronets import _keras_private
from keras_micronets.edge.member import Member, quantize
from keras_micronets.export.converter import QUANTIZATIONS, check_backend, convert
from keras_micronets.export.flatbuffer import read_flatbuffer
from keras_micronets.export.report import ExportReport
from keras_micronets.layers import freeze_quantizers, kernels, quantized_share
from keras_micronets.layers.quantizers import input_range

N_COMPARED = 64


def export_tflite(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    quantization: str | None = "int8",
    representative_data: np.ndarray | None = None,
) -> ExportReport:
    """Write a Keras model as a `.tflite` file, and prove that the file works.

    A model trained with `QuantizationAwareTraining` becomes an integer file with
    the ranges it learned; no data is needed. Any other model becomes an integer
    file by post-training quantisation, its ranges measured on representative data.
    The file is loaded by LiteRT, run, and compared with the Keras model before it
    is put in place. Files have a batch size of 1.

    Args:
        model: A built Keras model with one input and one output, plain or
            promoted, on the TensorFlow backend.
        path: Where to write; must end in `.tflite`. An older file is replaced.
        quantization: `"int8"` (integers throughout, int8 input and output),
            `"float16"` (weights), `"dynamic"` (int8 weights, float computation)
            or `None` (float32). Defaults to `"int8"`.
        representative_data: Array of inputs `(samples, ...)` for post-training
            int8; some hundred typical ones. They also serve for the comparison.
            A model with learned ranges keeps these. Defaults to `None`.

    Returns:
        An `ExportReport`: sizes, operations, zeros, parity. It prints as a table.

    Raises:
        ValueError: If an argument is not one of those described, if an int8
            export has neither learned ranges nor representative data, or if the
            file does not run or puts out numbers that are not finite. Nothing is
            written then.

    Example:

    ```python
    report = keras_micronets.export_tflite(model, "model.tflite")
    print(report)
    ```
    """
    path = _check_path(path)
    model = _check_model(model)
    if quantization not in QUANTIZATIONS:
        raise ValueError(
            f"Expected `quantization` to be one of {QUANTIZATIONS}. "
            f"Received: quantization={quantization!r}."
        )
    data = _check_data(model, representative_data)
    learned = quantization == "int8" and quantized_share(model) > 0
    if quantization == "int8" and not learned and data is None:
        raise ValueError(
            "Expected a model with learned ranges, or representative data to measure "
            f"them on. Received: {model.name!r} without active quantisers and "
            "representative_data=None. Train with `QuantizationAwareTraining`, or "
            "pass some hundred training inputs."
        )
    calibration = data if quantization == "int8" and not learned else None
    content = convert(model, quantization=quantization, representative_data=calibration)
    report = _report(model, path, content, quantization, learned, data)
    _write(path, content)
    return report


def _report(model, path, content, quantization, learned, data):
    flatbuffer = read_flatbuffer(content)
    weights = flatbuffer.int8_weights.values()
    sources = {True: "learned", False: "representative data"}
    return ExportReport(
        path=path,
        quantization=quantization,
        calibration=sources[learned] if quantization == "int8" else None,
        n_bytes=flatbuffer.n_bytes,
        gzip_bytes=flatbuffer.gzip_bytes,
        operations=flatbuffer.operations,
        float_operations=flatbuffer.float_operations,
        n_masked=sum(k.size - int(k.mask.sum()) for k in kernels(model)),
        n_zeros=sum(int(np.sum(w == 0)) for w in weights),
        n_weights=sum(w.size for w in weights),
        **_compare(model, content, learned, _probe(model, data)),
    )


def _compare(model, content, learned, x):
    """Run the file and the model on the same inputs."""
    member = Member(content, name=model.name)
    raw = member.predict_raw(x)
    with freeze_quantizers(model, keep=learned):
        expected = keras.ops.convert_to_numpy(model(x, training=False))
    if not np.isfinite(raw).all():
        raise ValueError(
            "Expected finite outputs from the exported file. Received: "
            f"{np.sum(~np.isfinite(raw))} that are not, for model {model.name!r}."
        )
    is_integer = np.issubdtype(raw.dtype, np.integer)
    same_unit = quantize(expected, member.output_dtype, *member.output_quantization)
    difference = np.abs(raw.astype("float64") - same_unit)
    if learned and difference.max() > 1:
        warnings.warn(
            f"The int8 file of {model.name!r} differs from its simulation in Keras by "
            f"{difference.max():.0f} steps at most.",
            stacklevel=4,
        )
    return {
        "n_compared": len(x),
        "largest_difference": float(difference.max()),
        "share_within_one_step": float(np.mean(difference <= 1))
        if is_integer
        else None,
        "top1_agreement": float(np.mean(raw.argmax(-1) == same_unit.argmax(-1))),
    }


def _probe(model, data):
    """Inputs for the comparison: the user's, or noise over the range learned."""
    if data is not None:
        return data[:N_COMPARED]
    lower, upper = input_range(model) or (0.0, 1.0)
    shape = (N_COMPARED, *model.inputs[0].shape[1:])
    return np.random.default_rng(0).uniform(lower, upper, shape).astype("float32")


def _check_path(path):
    path = Path(path)
    if path.suffix != ".tflite" or path.is_dir():
        raise ValueError(
            f"Expected a file path that ends in .tflite. Received: {str(path)!r}."
        )
    return path


def _check_model(model):
    check_backend()
    if not model.built:
        raise ValueError(
            f"Expected a built model. Received: {model.name!r}, which is not built. "
            "Call it on a batch, or give it a `keras.Input`."
        )
    model = _with_graph(model)
    ends = len(_flat(model.inputs)), len(_flat(model.outputs))
    if ends != (1, 1):
        raise ValueError(
            "Expected a model with one input and one output. Received: "
            f"{model.name!r} with {ends[0]} inputs and {ends[1]} outputs."
        )
    return model


def _with_graph(model):
    """Give a subclassed model inputs and outputs that can be read."""
    if _keras_private.is_functional(model):
        return model
    shape = model.get_build_config().get("input_shape")
    inputs = keras.tree.map_shape_structure(
        lambda one: keras.Input(batch_shape=one), shape
    )
    return keras.Model(inputs, model(inputs), name=model.name)


def _flat(tensors):
    return keras.tree.flatten(tensors)


def _check_data(model, data):
    if data is None:
        return None
    data = np.asarray(data, "float32")
    expected = tuple(model.inputs[0].shape[1:])
    wrong = data.ndim != len(expected) + 1 or len(data) == 0
    if wrong or any(
        size not in (None, got)
        for size, got in zip(expected, data.shape[1:], strict=True)
    ):
        raise ValueError(
            f"Expected representative data of shape (samples, "
            f"{', '.join(map(str, expected))}). Received: shape {data.shape}."
        )
    if not np.isfinite(data).all():
        raise ValueError(
            "Expected finite representative data. Received: an array with NaN or "
            "infinity in it."
        )
    return data


def _write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(content)
    partial.replace(path)
