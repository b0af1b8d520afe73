"""Convert in a separate process, where Keras runs on TensorFlow."""

import importlib.util
import json
import os
import tempfile
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_micronets import _keras_private
from keras_micronets.export.report import ExportReport, Parity
from keras_micronets.export.tflite_model import ConvertedFile
from keras_micronets.export.workers import WorkerDiedError, running_worker
from keras_micronets.layers import quantized_share

__all__ = ["check_converter", "make_file_in_subprocess"]

_IMPORTED = ("keras", "keras_micronets")


def check_converter() -> None:
    """Raise a `ValueError` unless TensorFlow, whose converter is used, is installed."""
    if importlib.util.find_spec("tensorflow") is None:
        raise ValueError(
            "Expected TensorFlow, whose converter writes `.tflite` files. Received: "
            f"Keras on {keras.backend.backend()!r}, and no TensorFlow. Install it too, "
            "or save the model as `.keras` and export it where "
            "KERAS_BACKEND=tensorflow."
        )


def make_file_in_subprocess(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    samples: list[np.ndarray] | None,
    **options: Any,
) -> ConvertedFile:
    """Call `make_file` in a process where Keras runs on TensorFlow.

    Args:
        model: A built model that Keras can save and load.
        path: Path of the file, for the report.
        samples: Array `(samples, ...)` for each input, or `None`.
        **options: The other arguments of `make_file`.

    Raises:
        ValueError: If the process cannot load the model, or as `make_file` does.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model.save(folder / "model.keras")
        if samples is not None:
            np.savez(folder / "samples.npz", *samples)
        job = _job(model, options)
        (folder / "job.json").write_text(json.dumps(job))
        result = _run(folder, job)
        if "error" in result:
            raise ValueError(result["error"])
        content = (folder / "model.tflite").read_bytes()
    return ConvertedFile(content, _report(path, result["report"]), None)


def _job(model, options):
    classes = {type(layer) for layer in _keras_private.flatten_layers(model)}
    custom = [c for c in classes if c.__module__.split(".")[0] not in _IMPORTED]
    return {
        "name": model.name,
        "custom": sorted(f"{c.__module__}.{c.__name__}" for c in custom),
        "modules": sorted({c.__module__ for c in custom if _is_importable(c)}),
        "quantized_share": quantized_share(model),
        "options": options,
    }


def _is_importable(cls):
    """Return whether another process can import the module that registers a class."""
    try:
        spec = importlib.util.find_spec(cls.__module__)
    except (ImportError, ValueError):  # made without a file, as in a notebook
        spec = None
    return cls.__module__ != "__main__" and spec is not None


def _run(folder, job):
    worker = running_worker(
        "-m",
        "keras_micronets.export.subprocess_worker",
        KERAS_BACKEND="tensorflow",
        CUDA_VISIBLE_DEVICES="-1",  # this process uses the GPU's memory
        TF_CPP_MIN_LOG_LEVEL="3",
    )
    try:
        worker.run(str(folder))
    except WorkerDiedError as error:
        if error.code >= 0:  # an exception: a fault of this package
            raise
        raise ValueError(
            "Expected a model that TensorFlow's converter can convert. Received: "
            f"{job['name']!r}, which ended the process that converts "
            f"({error.ending}). The file is not written; this process and the model "
            "are unharmed. Look for a model too large for this machine's memory."
        ) from error
    finally:
        if job["modules"]:  # they may change before the next export
            worker.close()
    return json.loads((folder / "result.json").read_text())


def _report(path, values):
    counters = {f.name for f in fields(ExportReport) if f.type is Counter}
    values = values | {name: Counter(values[name]) for name in counters}
    outputs = tuple(Parity(**output) for output in values["outputs"])
    return ExportReport(**values | {"path": Path(path), "outputs": outputs})
