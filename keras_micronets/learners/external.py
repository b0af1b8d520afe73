"""Adapt learners that are in no pool: models, files, functions or predictions."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
from sklearn.base import BaseEstimator, is_regressor

from keras_micronets import layers
from keras_micronets.edge import Member
from keras_micronets.export.flatbuffer import gzip_size
from keras_micronets.learners.inputs import as_inputs, count_samples
from keras_micronets.learners.labels import align, check_columns, union_of_classes
from keras_micronets.learners.outputs import (
    estimate_int8_gzip_size,
    infer_from_logits,
    infer_task,
    predictions_of,
)
from keras_micronets.learners.pool import LearnerPool
from keras_micronets.learners.predictions import progress_bar

__all__ = ["ExternalLearner", "ExternalLearners", "Function", "as_learners"]


class Function:
    """Wrap a function from inputs to predictions as a model.

    Args:
        function: Takes the inputs, returns an array of shape `(samples, *outputs)`. Of
            several labels, scikit-learn returns a list of arrays `(samples, 2)`.
    """

    def __init__(self, function: Callable) -> None:
        self.function = function

    def predict(self, x: Any) -> np.ndarray:
        """Return the predictions, `(samples, *outputs)` of `float32`."""
        outputs = self.function(x)
        if isinstance(outputs, list) and np.ndim(outputs[0]) == 2:
            outputs = np.stack([columns[:, -1] for columns in outputs], axis=1)
        outputs = np.asarray(outputs, "float32")
        return outputs[:, None] if outputs.ndim == 1 else outputs


@dataclass(frozen=True, eq=False)
class ExternalLearner:
    """Describe one learner that is in no pool, with the attributes of a `Learner`.

    Args:
        name: String.
        model: A Keras model, a `Member` or a `Function`; `None` if only predictions
            are known.
        path: Path of its `.tflite` file, or `None`.
        task: What it predicts; `None` if unknown.
        from_logits: Whether its outputs are logits; `None` if unknown.
        classes: The labels of its columns, or `None`.
    """

    name: str
    model: Any = None
    path: Path | None = None
    epoch: int | None = None
    seed: int | None = None
    origin: str = ""
    metrics: dict = field(default_factory=dict)
    task: str | None = None
    from_logits: bool | None = None
    classes: Any = None

    @property
    def is_keras(self) -> bool:
        return isinstance(self.model, keras.Model)

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

    def predict(self, x: Any, batch_size: int) -> np.ndarray:
        """Return the predictions, `(samples, *outputs)`."""
        if isinstance(self.model, Function):
            return self.model.predict(x)
        x = as_inputs(x)
        if not self.is_keras:
            return self.model.predict(x)
        return predictions_of(
            self.model.predict(x, batch_size=batch_size, verbose=0),
            self.from_logits,
            task=self.task or "multiclass",
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
        self.probabilities = probabilities
        names = [learner.name for learner in learners]
        self.classes = union_of_classes(names, [x.classes for x in learners])
        self.learners = tuple(_with_classes(x, self.classes) for x in learners)

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
        """Return the predictions of all learners on one data set.

        The columns of scikit-learn's classifiers are aligned by their `classes_`.

        Args:
            x: The inputs: an array, several for models of several inputs, or, for
                scikit-learn and functions, a frame, sparse matrix or list of texts.
                `None` if the learners are given as predictions, without models.
            batch_size, verbose: As for `LearnerPool.predict`.
            mapped: Not used; present because pools have it.

        Returns:
            Array of shape `(learners, samples, *outputs)`.

        Raises:
            ValueError: If `x` is given and there are no models, the outputs differ
                in their shape, or the classes cannot be aligned.
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
            predictions.append(learner.predict(x, batch_size))
            self._check_shape(learner, predictions, count_samples(x))
            bar.add(1)
        return np.stack(predictions)

    def _check_shape(self, learner, predictions, n_samples):
        first, shape = predictions[0].shape, predictions[-1].shape
        if len(shape) < 2 or shape[0] != n_samples or shape != first:
            raise ValueError(
                "Expected learners of the same classes, with one row of outputs per "
                f"sample: shape {first} for {n_samples} samples. Received: "
                f"{learner.name!r} with shape {shape}."
            )


def as_learners(
    learners: Any, *, task: str | None = None, from_logits: bool | None = None
) -> LearnerPool | ExternalLearners | None:
    """Return an object that predicts with all given learners.

    Args:
        learners: A `LearnerPool`; a sequence, or a dictionary by name, of Keras models,
            paths of `.tflite` or `.keras` files, scikit-learn estimators and functions
            from inputs to predictions, in any mixture; an array of predictions of
            shape `(learners, samples, *outputs)`; or `None`.
        task: What the learners that are in no pool predict, one of `edge.TASKS`. `None`
            to infer it from each. Defaults to `None`.
        from_logits: Whether these return logits. `None` to infer it from each.
            Defaults to `None`.

    Raises:
        TypeError: If it is of another type.
        ValueError: If there is no learner, or a file does not load.
    """
    if learners is None or isinstance(learners, LearnerPool | ExternalLearners):
        return learners
    given = {"task": task, "from_logits": from_logits}
    if isinstance(learners, np.ndarray) and learners.ndim >= 3:
        rows = [
            ExternalLearner(f"learner-{i}", task=task) for i in range(len(learners))
        ]
        return ExternalLearners(rows, learners)
    if isinstance(learners, Mapping):
        adapted = [_adapt(one, str(name), **given) for name, one in learners.items()]
    elif isinstance(learners, Sequence) and not isinstance(learners, str):
        adapted = _with_unique_names([_adapt(one, **given) for one in learners])
    else:
        raise TypeError(
            "Expected a LearnerPool, a list or dictionary of Keras models, .tflite "
            "files, estimators and functions, or an array (learners, samples, "
            f"classes). Received: {type(learners).__name__}."
        )
    if not adapted:
        raise ValueError("Expected at least one learner. Received: none.")
    return ExternalLearners(adapted)


def _with_classes(learner: ExternalLearner, classes: Any) -> ExternalLearner:
    """Return a learner with a column for each of the classes of all learners."""
    if classes is None or np.array_equal(learner.classes, classes):
        return learner
    if learner.classes is None:
        check_columns(learner.name, classes)
        return learner

    def aligned(x):
        return align(learner.model.predict(x), learner.name, learner.classes, classes)

    return replace(learner, model=Function(aligned))


def predict_with(
    model: Any, x: Any, batch_size: int, *, task: str, from_logits: bool
) -> np.ndarray:
    """Return the predictions of one model, `(samples, *outputs)`."""
    learner = ExternalLearner("", model, task=task, from_logits=from_logits)
    return learner.predict(x, batch_size)


def common_task(learners: Any, task: str | None) -> str:
    """Return the task of all learners, or the given one.

    Raises:
        ValueError: If learners differ in their task, or a pool has another than the
            given one.
    """
    tasks = {x.name: x.task for x in learners if getattr(x, "task", None)}
    if len({*tasks.values()}) > 1:
        raise ValueError(
            f"Expected learners of one task. Received: {tasks}. Pass `task`, or keep "
            "one pool per problem."
        )
    known = next(iter(tasks.values()), None)
    if task is not None and known not in (None, task):
        raise ValueError(
            f"Expected task={known!r}, as the learners were added with. Received: "
            f"task={task!r}. Add them with the right `task`."
        )
    return task or known or "multiclass"


def _adapt(
    one: Any,
    name: str | None = None,
    *,
    task: str | None,
    from_logits: bool | None,
) -> ExternalLearner:
    given = {"task": task, "from_logits": from_logits}
    if isinstance(one, str | os.PathLike):
        path = Path(one).expanduser()
        name = name or path.stem
        if path.suffix == ".keras":
            return _adapt(_load(path), name, **given)
        member = Member(path, from_logits=bool(from_logits), task=task or "multiclass")
        return ExternalLearner(name, member, path, **given)
    if isinstance(one, keras.Model):
        if task is None:
            task = infer_task(one)
        if from_logits is None:
            from_logits = infer_from_logits(one)
        return ExternalLearner(
            name or one.name, one, task=task, from_logits=from_logits
        )
    if hasattr(one, "predict_proba") or _is_regressor(one):
        return _adapt_estimator(one, name or type(one).__name__, task)
    if callable(one):
        function_name = getattr(one, "__name__", type(one).__name__)
        return ExternalLearner(name or function_name, Function(one), task=task)
    raise TypeError(
        "Expected a Keras model, a path of a .tflite or .keras file, a scikit-learn "
        "classifier with predict_proba, a regressor, or a function. Received: "
        f"{type(one).__name__}."
    )


def _load(path):
    """Load a `.keras` file with its loss, which tells logits, if it can be restored."""
    try:
        return keras.saving.load_model(path)
    except (TypeError, ValueError):
        return keras.saving.load_model(path, compile=False)


def _is_regressor(one):
    return isinstance(one, BaseEstimator) and is_regressor(one)


def _adapt_estimator(estimator: Any, name: str, task: str | None) -> ExternalLearner:
    if _is_regressor(estimator):
        function = Function(estimator.predict)
        return ExternalLearner(name, function, task=task or "regression")
    classes = getattr(estimator, "classes_", None)
    several = isinstance(classes, list) or getattr(estimator, "multilabel_", False)
    if several:
        task, classes = task or "multilabel", None
    function = Function(estimator.predict_proba)
    return ExternalLearner(name, function, task=task or "multiclass", classes=classes)


def _with_unique_names(learners):
    if len({learner.name for learner in learners}) == len(learners):
        return learners
    return [replace(x, name=f"{x.name}-{i}") for i, x in enumerate(learners)]
