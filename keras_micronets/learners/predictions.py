"""Predictions of many learners, computed once and kept on disk."""

import hashlib
import io
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import keras
import numpy as np

from keras_micronets.export.atomic import write_atomically
from keras_micronets.learners.learner import Learner
from keras_micronets.learners.outputs import to_probabilities

_DIGEST_BYTES = hashlib.sha256().digest_size


class PredictionCache:
    """Probabilities of learners on data sets, one file a learner and data set.

    A file is found by the hash of the data and the hash of the learner's model, and
    so is reused only when both are the same; it ends with the hash of itself.

    Args:
        directory: Where the files lie; made when the first is written.
        x: The data, an array.
    """

    def __init__(self, directory: Path, x: np.ndarray):
        self.directory = directory / _hash_array(x)[:32]

    def read(self, learner: Learner) -> np.ndarray | None:
        """Return the learner's probabilities, or `None` if there are none sound."""
        try:
            content = self._path(learner).read_bytes()
        except OSError:
            return None
        array, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
        if hashlib.sha256(array).digest() != digest:
            return None
        return np.load(io.BytesIO(array), allow_pickle=False)

    def write(self, learner: Learner, probabilities: np.ndarray) -> None:
        """Keep a learner's probabilities."""
        self.directory.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        np.save(buffer, probabilities, allow_pickle=False)
        content = buffer.getvalue()
        digest = hashlib.sha256(content).digest()  # NumPy does not read so far
        write_atomically(self._path(learner), content + digest)

    def mapped(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return an array in half precision that is a file without a name.

        Nobody else sees it, and its room is free when the array is gone.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.directory) as file:
            return np.memmap(file, np.float16, "w+", shape=shape)

    def _path(self, learner):
        kind = {True: "logits", False: "probabilities", None: "unknown"}
        return self.directory / (
            f"{learner.sha256[:32]}-{kind[learner.from_logits]}.npy"
        )


class Predictor:
    """Predict with one learner after the other, compiling once an architecture.

    It keeps the model of the learner before, and gives it the next one's weights.
    """

    def __init__(self):
        self._architecture = None
        self._model = None

    def predict(self, learner: Learner, x: np.ndarray, batch_size: int) -> np.ndarray:
        """Return the learner's probabilities, `(samples, classes)`.

        Args:
            learner: The learner.
            x: The data, an array of shape `(samples, ...)`.
            batch_size: Integer, samples a batch for Keras models.
        """
        if not learner.is_keras:
            return learner.load().predict(x)
        if learner.architecture != self._architecture:
            self._model = learner.load()
            self._architecture = learner.architecture
        else:
            self._model.load_weights(learner.path)
        return to_probabilities(
            self._outputs(x, batch_size),
            learner.from_logits,
            quantized=learner.quantized,
        )

    def _outputs(self, x, batch_size):
        # `predict` would set up a data set for each learner, to read the same data.
        batches = (x[i : i + batch_size] for i in range(0, len(x), batch_size))
        return np.concatenate(
            [self._model.predict_on_batch(batch) for batch in batches]
        )


def predict_all(
    learners: Sequence[Learner],
    x: np.ndarray,
    cache_directory: Path,
    predictor: Predictor,
    *,
    batch_size: int,
    verbose: int,
    mapped: bool = False,
) -> np.ndarray:
    """Return the probabilities of learners, `(learners, samples, classes)`.

    Args:
        learners: Learners with the same number of classes.
        x: Data of shape `(samples, ...)`.
        cache_directory: Where predictions are kept.
        predictor: What computes those that are not there.
        batch_size: Integer, samples a batch.
        verbose: Integer, 0 for silence, 1 for a progress bar.
        mapped: Whether they lie on disk, in half precision. Defaults to `False`.
    """
    cache = PredictionCache(cache_directory, x)
    shape = (len(learners), len(x), learners[0].n_classes)
    probabilities = cache.mapped(shape) if mapped else np.empty(shape, "float32")
    bar = keras.utils.Progbar(len(learners), verbose=verbose, unit_name="learner")
    # Learners of one architecture follow each other, to be compiled for together.
    for i in sorted(range(len(learners)), key=lambda i: learners[i].architecture):
        found = cache.read(learners[i])
        if found is None:
            found = predictor.predict(learners[i], x, batch_size)
            cache.write(learners[i], found)
        probabilities[i] = found
        bar.add(1)
    return probabilities


def check_same_classes(learners: Iterable[Learner]) -> None:
    """Raise a `ValueError` if learners differ in their number of classes."""
    if len({learner.n_classes for learner in learners}) > 1:
        raise ValueError(
            "Expected learners of the same classes. Received: "
            + ", ".join(f"{x.name} with {x.n_classes}" for x in learners)
            + ". Keep one pool a problem."
        )


def _hash_array(x):
    digest = hashlib.sha256(f"{x.dtype.str}{x.shape}".encode())
    digest.update(np.ascontiguousarray(x))
    return digest.hexdigest()
