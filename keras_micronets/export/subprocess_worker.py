"""Make files in a separate process, where Keras runs on TensorFlow.

Each line that the process reads names a folder with a model, the samples and the job.
The file and its report, or the error, are written beside them.
"""

import importlib
import json
from pathlib import Path

import keras
import numpy as np

from keras_micronets.export.make_file import make_file
from keras_micronets.export.model_graph import with_graph
from keras_micronets.export.workers import serve
from keras_micronets.layers import quantized_share

__all__ = ["main"]


def main(path: str) -> None:
    """Do the job that a folder describes."""
    folder = Path(path)
    job = json.loads((folder / "job.json").read_text())
    try:
        model = with_graph(_load(folder / "model.keras", job))
        samples = _read_samples(folder / "samples.npz")
        file = make_file(model, "", samples=samples, **job["options"])
    except ValueError as error:
        result = {"error": str(error)}
    else:
        (folder / "model.tflite").write_bytes(file.content)
        outputs = [vars(parity) for parity in file.report.outputs]
        result = {"report": {**vars(file.report), "path": "", "outputs": outputs}}
    (folder / "result.json").write_text(json.dumps(result))
    keras.utils.clear_session()  # the next job's models take their memory


def _load(path, job):
    for name in job["modules"]:
        importlib.import_module(name)
    try:
        model = keras.models.load_model(path, compile=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "Expected a model that another process can load, for the converter needs "
            "Keras on TensorFlow: register custom classes, with "
            "`keras.saving.register_keras_serializable`, in an importable module. "
            f"Received: {job['name']!r} with {job['custom'] or str(error)[:300]}."
        ) from error
    if quantized_share(model) != job["quantized_share"]:
        raise ValueError(
            "Expected a sequential or functional model: Keras rebuilds a subclassed "
            f"one without its quantisers. Received: {job['name']!r}. Train and export "
            "it in a process started with KERAS_BACKEND=tensorflow."
        )
    return model


def _read_samples(path):
    if not path.exists():
        return None
    with np.load(path) as arrays:
        return [arrays[name] for name in arrays.files]


if __name__ == "__main__":
    serve(main)
