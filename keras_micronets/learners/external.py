"""Adapt learners that are in no pool: models, files, functions or predictions."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    infer_from_logits,
    to_probabilities,
)
from keras_micronets.learners.pool import LearnerPool
from keras_micronets.learners.predictions import progress_bar

__all__ = ["ExternalLearner", "ExternalLearners", "Function", "as_learners"]


class Function:
    """Wrap a function from inputs to class probabilities as a model.

    Args:
        function: Takes an array `(samples, ...)`, returns `(samples, classes)`.
    """

    def __init__(self, function: Callable) -> None:
        self.function = function

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return the probabilities, `(samples, classes)` of `float32`."""
        return np.asarray(self.function(x), "float32")


@dataclass(frozen=True, eq=False)
class ExternalLearner:
    """Describe one learner that is in no pool, with the attributes of a `Learner`.

    Args:
        name: String.
        model: A Keras model, a `Member` or a `Function`; `None` if only predictions
            are known.
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
        return infer_from_logits(self.model) if self.is_keras else None

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
    """Predict with learners that are in no pool, as a `LearnerPool` does.

    Nothing is cached: each call predicts again.

    Args:
        learners: Sequence of `ExternalLearner`.
        probabilities: Array of shape `(learners, samples, classes)`, their predictions
            if there are no models. Defaults to `None`.
    """

    def __init__(
        self,
        learners: Sequence[ExternalLearner],
        probabilities: np.ndarray | None = None,
    ) -> None:
        self.learners = tuple(learners)
        self.probabilities = probabilities

    def __len__(self) -> int:
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
            x: Array of shape `(samples, ...)`. `None` if the learners are given as
                predictions, without models.
            batch_size, verbose: As for `LearnerPool.predict`.
            mapped: Not used; present because pools have it.

        Returns:
            Array of shape `(learners, samples, classes)`.

        Raises:
            ValueError: If `x` is given and there are no models, or the outputs differ
                in their shape.
        """
        if self.probabilities is not None:
            if x is not None:
                raise ValueError(
                    "Expected x=None, for the learners are bare probabilities. "
                    "Received: inputs, but no models to predict with."
                )
            return self.probabilities
        bar = progress_bar(len(self), verbose)
        predictions = []
        for learner in self:
            predictions.append(learner.predict(np.asarray(x), batch_size))
            self._check_shape(learner, predictions, len(x))
            bar.add(1)
        return np.stack(predictions)

    def _check_shape(self, learner, predictions, n_samples):
        first, shape = predictions[0].shape, predictions[-1].shape
        if len(shape) != 2 or shape[0] != n_samples or shape != first:
            raise ValueError(
                "Expected learners of the same classes, with one row of outputs per "
                f"sample: shape {first} for {n_samples} samples. Received: "
                f"{learner.name!r} with shape {shape}."
            )


def as_learners(learners: Any) -> LearnerPool | ExternalLearners | None:
    """Return an object that predicts with all given learners.

    Args:
        learners: A `LearnerPool`; a sequence, or a dictionary by name, of Keras models,
            paths of `.tflite` or `.keras` files, scikit-learn classifiers and functions
            from inputs to probabilities, in any mixture; an array of predictions of
            shape `(learners, samples, classes)`; or `None`.

    Raises:
        TypeError: If it is of another type.
        ValueError: If there is no learner, or a file does not load.
    """
    if learners is None or isinstance(learners, LearnerPool | ExternalLearners):
        return learners
    if isinstance(learners, np.ndarray) and learners.ndim == 3:
        rows = [ExternalLearner(f"learner-{i}") for i in range(len(learners))]
        return ExternalLearners(rows, learners)
    if isinstance(learners, Mapping):
        adapted = [_adapt(one, str(name)) for name, one in learners.items()]
    elif isinstance(learners, Sequence) and not isinstance(learners, str):
        adapted = _with_unique_names([_adapt(one) for one in learners])
    else:
        raise TypeError(
            "Expected a LearnerPool, a list or dictionary of Keras models, .tflite "
            "files, classifiers and functions, or an array (learners, samples, "
            f"classes). Received: {type(learners).__name__}."
        )
    if not adapted:
        raise ValueError("Expected at least one learner. Received: none.")
    return ExternalLearners(adapted)


def _adapt(one: Any, name: str | None = None) -> ExternalLearner:
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
        function_name = getattr(one, "__name__", type(one).__name__)
        return ExternalLearner(name or function_name, Function(one))
    raise TypeError(
        "Expected a Keras model, a path of a .tflite or .keras file, a scikit-learn "
        f"classifier with predict_proba, or a function. Received: {type(one).__name__}."
    )


def _with_unique_names(learners):
    if len({learner.name for learner in learners}) == len(learners):
        return learners
    return [replace(x, name=f"{x.name}-{i}") for i, x in enumerate(learners)]
