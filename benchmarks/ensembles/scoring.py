"""Scores of a row's models, as they are and as int8 files."""

from functools import partial

import numpy as np

import keras_micronets as kmn
from keras_micronets import selection
from keras_micronets.edge.bench import interleaved_medians
from keras_micronets.edge.member import Member
from keras_micronets.edge.tasks import softmax
from keras_micronets.export.flatbuffer import gzip_size

__all__ = ["mean_probabilities", "score"]


def score(models, run):
    """Return the metrics of the mean of models, in Keras and as int8 files.

    Args:
        models: List of models whose outputs are logits.
        run: A `Run`.
    """
    folder = run.folder / "files"
    folder.mkdir(exist_ok=True)
    return {
        "members": len(models),
        "macs": round(run.macs(*models), 3),
        **metrics(partial(mean_probabilities, models), run),
        "float32_bytes": _float32_bytes(models, folder),
        "int8": _score_files(models, run, folder),
    }


def mean_probabilities(models, x):
    """Return the mean of the probabilities of models, `(samples, classes)`."""
    logits = [model.predict(x, batch_size=500, verbose=0) for model in models]
    return softmax(np.stack(logits)).mean(axis=0)


def metrics(predict, run):
    """Return test and held-out metrics of a function from inputs to probabilities."""
    held_out, test = predict(run.held_out[0]), predict(run.test[0])
    y = run.test[1]
    return {
        "accuracy": float(selection.accuracy(test, y)),
        "nll": float(selection.negative_log_likelihood(test, y)),
        "calibrated_nll": float(
            selection.calibrated_negative_log_likelihood(
                test, y, held_out=(held_out, run.held_out[1])
            )
        ),
        "ece": float(selection.expected_calibration_error(test, y)),
        "held_out_accuracy": float(selection.accuracy(held_out, run.held_out[1])),
        "held_out_nll": float(
            selection.negative_log_likelihood(held_out, run.held_out[1])
        ),
    }


def _score_files(models, run, folder):
    files = [folder / f"{i}.tflite" for i in range(len(models))]
    for model, path in zip(models, files, strict=True):
        kmn.export_tflite(model, path, representative_data=run.train[0][:500])
    members = [Member(path, from_logits=True) for path in files]
    return {
        **metrics(lambda x: np.mean([m.predict(x) for m in members], axis=0), run),
        "bytes": sum(path.stat().st_size for path in files),
        "gzip_bytes": sum(gzip_size(path.read_bytes()) for path in files),
        "latency": _latency(members, run, folder),
    }


def _latency(members, run, folder):
    """Return the time for one sample, relative to the baseline's int8 file."""
    path = folder / "baseline.tflite"
    if not path.exists():
        kmn.export_tflite(run.build(), path, representative_data=run.train[0][:500])
    reference, x = Member(path, from_logits=True), run.test[0][:1]
    one, together = interleaved_medians(
        [
            lambda: reference.predict(x),
            lambda: [member.predict(x) for member in members],
        ],
        repeats=300,
    )
    return round(together / one, 3)


def _float32_bytes(models, folder):
    path, sizes = folder / "float32.tflite", []
    for model in models:
        kmn.export_tflite(kmn.strip(model), path, quantization=None)
        sizes.append(path.stat().st_size)
    return sum(sizes)
