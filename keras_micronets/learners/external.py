"""Learners that are in no pool: models, files, functions, or their predictions."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_micronets import layers
from keras_micronets.edge import Member
from keras_micronets.export.flatbuffer import gzip_size
from keras_micronets.learners.outputs import (
    estimate_int8_gzip_size,
    settle_from_logits,
    to_probabilities,
)
from keras_micronets.learners.pool import LearnerPool


class Function:
    """A function from inputs to class probabilities, as a member of an ensemble.

    Args:
        function: Takes an array `(samples, ...)`, returns `(samples, classes)`.
    """

    def __init__(self, function: Callable):
        self.function = function

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return the probabilities, `(samples, classes)` of `float32`."""
        return np.asarray(self.function(x), "float32")


@dataclass(frozen=True, eq=False)
class ExternalLearner:
    """One learner that is in no pool; the attributes are those of a `Learner`.

    Args:
        name: String.
        model: A Keras model, a `Member` or a `Function`; `None` for one of which only
            the predictions are known.
        path: Path of its `.tflite` file, or `None`.
    """

    name: str
    model: Any = None
    path: Path | None = None
    epoch: int | None = None
    seed: int | None = None
    origin: str = ""
    metrics: dict = field(default_factory=dict)

    @property
    def is_keras(self) -> bool:
        return isinstance(self.model, keras.Model)

    @cached_property
    def from_logits(self) -> bool | None:
        return settle_from_logits(self.model) if self.is_keras else None

    @cached_property
    def sparsity(self) -> float | None:
        return layers.sparsity(self.model) if self.is_keras else None

    @property
    def n_bytes(self) -> int | None:
        return self.path.stat().st_size if self.path else None

    @cached_property
    def gzip_bytes(self) -> int | None:
        if self.path:
            return gzip_size(self.path.read_bytes())
        return estimate_int8_gzip_size(self.model) if self.is_keras else None

    def load(self) -> Any:
        """Return the model."""
        return self.model

    def predict(self, x: np.ndarray, batch_size: int) -> np.ndarray:
        """Return the class probabilities, `(samples, classes)`."""
        if not self.is_keras:
            return self.model.predict(x)
        return to_probabilities(
            self.model.predict(x, batch_size=batch_size, verbose=0),
            self.from_logits,
            quantized=layers.quantized_share(self.model) > 0,
        )


class ExternalLearners:
    """Learners that are in no pool, with a pool's way to predict.

    Nothing is kept on disk: each call predicts anew.

    Args:
        learners: Sequence of `ExternalLearner`.
        probabilities: Array of shape `(learners, samples, classes)`, what they predict
            if their models are not known. Defaults to `None`.
    """

    def __init__(
        self,
        learners: Sequence[ExternalLearner],
        probabilities: np.ndarray | None = None,
    ):
        self.learners = tuple(learners)
        self.probabilities = probabilities

    def __len__(self):
        return len(self.learners)

    def __iter__(self) -> Iterator[ExternalLearner]:
        return iter(self.learners)

    def __getitem__(self, index: int) -> ExternalLearner:
        return self.learners[index]

    def predict(
        self,
        x: Any,
        *,
        batch_size: int = 256,
        verbose: int | str = "auto",
        mapped: bool = False,
    ) -> np.ndarray:
        """Return the class probabilities of all learners on one data set.

        Args:
            x: Array of shape `(samples, ...)`; `None` if predictions are all that is
                known.
            batch_size: Integer, samples a batch for Keras models. Defaults to `256`.
            verbose: `"auto"` or 1 for a progress bar, 0 for silence. Defaults to
                `"auto"`.
            mapped: Not used; here because pools have it.

        Returns:
            Array of shape `(learners, samples, classes)`.

        Raises:
            ValueError: If `x` is given and models are not known, or learners differ in
                what they put out.
        """
        if self.probabilities is not None:
            if x is not None:
                raise ValueError(
                    "Expected x=None, for the learners are bare probabilities. "
                    "Received: inputs, which nothing is there to predict from."
                )
            return self.probabilities
        verbose = 1 if verbose == "auto" else verbose
        bar = keras.utils.Progbar(len(self), verbose=verbose, unit_name="learner")
        found = []
        for learner in self:
            found.append(learner.predict(np.asarray(x), batch_size))
            self._check_like_the_first(learner, found, len(x))
            bar.add(1)
        return np.stack(found)

    def _check_like_the_first(self, learner, found, n_samples):
        shape = found[-1].shape
        if len(shape) != 2 or shape[0] != n_samples or shape != found[0].shape:
            raise ValueError(
                "Expected learners of the same classes, that put out one row a sample: "
                f"shape {found[0].shape} for {n_samples} samples. Received: "
                f"{learner.name!r} with shape {shape}."
            )


def as_learners(learners: Any) -> LearnerPool | ExternalLearners | None:
    """Bring what a user has to something that predicts.

    Args:
        learners: A `LearnerPool`; a sequence, or a dictionary from names, of Keras
            models, paths of `.tflite` or `.keras` files, scikit-learn classifiers and
            functions from inputs to probabilities, in any mixture; or an array of
            shape `(learners, samples, classes)`; or `None`.

    Raises:
        TypeError: If it is something else.
        ValueError: If there is no learner, or a file does not load.
    """
    if learners is None or isinstance(learners, LearnerPool | ExternalLearners):
        return learners
    if isinstance(learners, np.ndarray) and learners.ndim == 3:
        rows = [ExternalLearner(f"learner-{i}") for i in range(len(learners))]
        return ExternalLearners(rows, learners)
    if isinstance(learners, Mapping):
        named = [_as_learner(one, str(name)) for name, one in learners.items()]
        return ExternalLearners(_not_none(named))
    if not isinstance(learners, Sequence) or isinstance(learners, str):
        raise TypeError(
            "Expected a LearnerPool, a list or dictionary of Keras models, .tflite "
            "files, classifiers and functions, or an array (learners, samples, "
            "classes). "
            f"Received: {type(learners).__name__}."
        )
    unnamed = [_as_learner(one) for one in learners]
    return ExternalLearners(_with_own_names(_not_none(unnamed)))


def _not_none(learners: list[ExternalLearner]) -> list[ExternalLearner]:
    if not learners:
        raise ValueError("Expected at least one learner. Received: none.")
    return learners


def _as_learner(one: Any, name: str | None = None) -> ExternalLearner:
    if isinstance(one, keras.Model):
        return ExternalLearner(name or one.name, one)
    if isinstance(one, str | os.PathLike):
        path = Path(one)
        if path.suffix == ".keras":
            model = keras.saving.load_model(path, compile=False)
            return ExternalLearner(name or path.stem, model)
        return ExternalLearner(name or path.stem, Member(path), path)
    if hasattr(one, "predict_proba"):
        return ExternalLearner(name or type(one).__name__, Function(one.predict_proba))
    if callable(one):
        name = name or getattr(one, "__name__", type(one).__name__)
        return ExternalLearner(name, Function(one))
    raise TypeError(
        "Expected a Keras model, a path of a .tflite or .keras file, a scikit-learn "
        f"classifier with predict_proba, or a function. Received: {type(one).__name__}."
    )


def _with_own_names(learners: list[ExternalLearner]) -> list[ExternalLearner]:
    names = [learner.name for learner in learners]
    if len(set(names)) == len(names):
        return learners
    return [
        ExternalLearner(f"{learner.name}-{i}", learner.model, learner.path)
        for i, learner in enumerate(learners)
    ]
