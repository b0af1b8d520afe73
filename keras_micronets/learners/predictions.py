"""Predict with many learners, and cache the predictions on disk."""

import hashlib
import io
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_micronets.edge.tasks import CLASS_TASKS
from keras_micronets.export.atomic import write_atomically
from keras_micronets.learners.inputs import count_samples, hash_arrays, row_reader
from keras_micronets.learners.learner import Learner
from keras_micronets.learners.outputs import predictions_of

__all__ = ["PredictionCache", "Predictor", "predict_all"]

_DIGEST_BYTES = hashlib.sha256().digest_size


class PredictionCache:
    """Cache the probabilities of learners on a data set, one file per learner.

    A file's path holds the hashes of data and model; its last bytes are its own hash.
    Where no file can be written, nothing is cached.

    Args:
        directory: Folder of the files; made when the first is written.
        x: The data, an array or arrays.
    """

    def __init__(self, directory: Path, x: Any) -> None:
        self.directory = directory / hash_arrays(x)[:32]

    def read(self, learner: Learner) -> np.ndarray | None:
        """Return the learner's probabilities, or `None` without a valid file."""
        try:
            content = self._path(learner).read_bytes()
        except OSError:
            return None
        array, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
        if hashlib.sha256(array).digest() != digest:
            return None
        return np.load(io.BytesIO(array), allow_pickle=False)

    def write(self, learner: Learner, probabilities: np.ndarray) -> None:
        """Write a learner's probabilities, if that is possible."""
        buffer = io.BytesIO()
        np.save(buffer, probabilities, allow_pickle=False)
        content = buffer.getvalue()
        digest = hashlib.sha256(content).digest()  # after the part that NumPy reads
        with suppress(OSError):
            write_atomically(self._path(learner), content + digest)

    def mapped(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """Return an array that is mapped from an unnamed temporary file."""
        with _temporary_file(self.directory) as file:
            return np.memmap(file, dtype, "w+", shape=shape)

    def _path(self, learner):
        names = {True: "logits", False: "probabilities", None: "unknown"}
        outputs = names[learner.from_logits]
        return self.directory / f"{learner.sha256[:32]}-{outputs}.npy"


class Predictor:
    """Predict with one learner after the other, compiling each architecture once.

    The model of the last learner is kept, and loads the weights of the next.
    """

    def __init__(self) -> None:
        self._architecture = None
        self._model: Any = None

    def predict(self, learner: Learner, x: Any, batch_size: int) -> np.ndarray:
        """Return the predictions of a learner, `(samples, *outputs)`."""
        if not learner.is_keras:
            return learner.load().predict(x)
        if learner.architecture != self._architecture:
            self._model = learner.load()
            self._architecture = learner.architecture
        else:
            learner.verify()
            self._model.load_weights(learner.path)
        return predictions_of(
            self._outputs(x, batch_size),
            learner.from_logits,
            task=learner.task,
            quantized=learner.quantized,
        )

    def _outputs(self, x, batch_size):
        # `predict` would build a data pipeline for each learner, over the same data.
        _check_shape(x, getattr(self._model, "input_shape", None), self._model.name)
        starts = range(0, count_samples(x), batch_size)
        read = row_reader(x)
        batches = (read(slice(i, i + batch_size)) for i in starts)
        return np.concatenate(
            [self._model.predict_on_batch(batch) for batch in batches]
        )


def predict_all(
    learners: Sequence[Learner],
    x: Any,
    cache_directory: Path,
    predictor: Predictor,
    *,
    batch_size: int,
    verbose: int | str,
    mapped: bool = False,
) -> np.ndarray:
    """Return the predictions of learners, `(learners, samples, *outputs)`.

    Args:
        learners: Learners with outputs of the same shape.
        x: Array of shape `(samples, ...)`, or several.
        cache_directory: Folder of the cached predictions.
        predictor: Computes those that are not cached.
        batch_size: Integer, samples per batch.
        verbose: `"auto"` or 1 for a progress bar, 0 for silence.
        mapped: Whether the result is mapped from disk, probabilities in half precision.
            Defaults to `False`.
    """
    cache = PredictionCache(cache_directory, x)
    shape = (len(learners), count_samples(x), *learners[0].outputs)
    # Half precision is enough for probabilities; numbers may exceed its range.
    dtype = "float16" if mapped and learners[0].task in CLASS_TASKS else "float32"
    make = cache.mapped if mapped else np.empty
    probabilities = make(shape, dtype)
    bar = progress_bar(len(learners), verbose)
    # Sorted, so that learners of one architecture share the compiled model.
    for i in sorted(range(len(learners)), key=lambda i: learners[i].architecture):
        predicted = cache.read(learners[i])
        if predicted is None:
            predicted = predictor.predict(learners[i], x, batch_size)
            cache.write(learners[i], predicted)
        probabilities[i] = predicted
        bar.add(1)
    return probabilities


def _check_shape(x: Any, expected: Any, name: str) -> None:
    """Raise a `ValueError` unless an array has the shape of a model's only input."""
    if not (isinstance(x, np.ndarray) and isinstance(expected, tuple)):
        return
    if any(isinstance(n, tuple) for n in expected) or x.ndim == 1:
        return
    sizes = zip(expected[1:], x.shape[1:], strict=False)
    if len(expected) != x.ndim or any(n not in (None, size) for n, size in sizes):
        shape = ", ".join("any" if n is None else str(n) for n in expected[1:])
        raise ValueError(
            f"Expected inputs of shape (samples, {shape}) for the learner {name!r}. "
            f"Received: shape {x.shape}."
        )


def progress_bar(n_learners: int | None, verbose: int | str) -> keras.utils.Progbar:
    """Return a progress bar; `verbose` is `"auto"` or 1, or 0 for silence.

    Without a number of learners, samples are counted.
    """
    verbose = 1 if verbose == "auto" else verbose
    unit = "sample" if n_learners is None else "learner"
    return keras.utils.Progbar(n_learners, verbose=verbose, unit_name=unit)


def check_same_outputs(learners: Iterable[Learner]) -> None:
    """Raise a `ValueError` if learners differ in their task or outputs."""
    if len({(learner.task, learner.outputs) for learner in learners}) > 1:
        raise ValueError(
            "Expected learners of the same classes and task. Received: "
            + ", ".join(f"{x.name} with {x.outputs}, {x.task}" for x in learners)
            + ". Keep one pool per problem."
        )


def _temporary_file(directory):
    """Open an unnamed file in a folder, or where the system keeps temporary files."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=directory)
    except OSError:
        return tempfile.TemporaryFile()
