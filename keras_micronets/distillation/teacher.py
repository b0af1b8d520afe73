"""Predict with a teacher: one model, or the mean of several."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_micronets import layers
from keras_micronets.edge import EnsembleRunner, Member
from keras_micronets.edge.member import dequantize
from keras_micronets.edge.tasks import normalize, softmax
from keras_micronets.learners import LearnerPool
from keras_micronets.learners.outputs import infer_from_logits

__all__ = ["Teacher"]


class Teacher:
    """Return the outputs that a student is trained on, from any thread.

    Args:
        teacher: As for `distill`.
        from_logits: As for `distill`.
    """

    def __init__(self, teacher: Any, from_logits: bool | None = None) -> None:
        self.name = getattr(teacher, "name", type(teacher).__name__)
        self._functions = _functions(teacher, from_logits)
        self._lock = threading.Lock()

    def __call__(self, x: Any) -> np.ndarray:
        """Return the mean of the members' outputs, `(samples, outputs)` of float32.

        Raises:
            ValueError: If the outputs have another shape, or are no probabilities
                where nothing says what they are.
        """
        with self._lock:
            outputs = [function(x) for function in self._functions]
        n_samples = len(keras.tree.flatten(x)[0])
        shapes = {value.shape for value in outputs}
        if len(shapes) > 1 or outputs[0].shape[:-1] != (n_samples,):
            raise ValueError(
                "Expected a teacher with one output of shape (samples, outputs), here "
                f"({n_samples}, outputs), the same for all of its members. Received: "
                f"{self.name!r} with {', '.join(map(str, sorted(shapes)))}."
            )
        return np.mean(outputs, axis=0, dtype="float32")


def _functions(teacher, from_logits) -> list[Callable]:
    """Return functions from inputs to outputs, one for each member."""
    if isinstance(teacher, LearnerPool):
        teacher = [_learner(one, from_logits) for one in teacher]
    elif isinstance(teacher, layers.SideBySide):
        teacher = teacher.members
    if isinstance(teacher, list | tuple):
        means = [Teacher(one, from_logits) for one in teacher]
        if not means:
            raise ValueError("Expected a teacher with at least one model. Received: 0.")
        return means
    if isinstance(teacher, str | os.PathLike):
        teacher = _load(Path(teacher))
    if isinstance(teacher, Teacher):
        return [teacher]
    if isinstance(teacher, keras.Model):
        return [_of_model(teacher, from_logits)]
    if isinstance(teacher, Member):
        return [_of_file(teacher, from_logits)]
    function: Any = teacher if callable(teacher) else None
    for name in ("predict", "predict_proba"):
        function = getattr(teacher, name, function)
    if function is not None:
        return [lambda x: _checked(function(x), from_logits, teacher)]
    raise TypeError(
        "Expected a teacher: a Keras model, a LearnerPool, the path of a .tflite or "
        ".keras file or of a bundle, an EnsembleRunner, a function of inputs, or a "
        f"list of these. Received: {type(teacher).__name__}."
    )


def _learner(learner, from_logits):
    from_logits = learner.from_logits if from_logits is None else from_logits
    return Teacher(learner.load(), from_logits)


def _load(path):
    if path.suffix == ".keras":
        return keras.saving.load_model(path)
    return Member(path) if path.suffix == ".tflite" else EnsembleRunner(path)


def _of_model(model, from_logits):
    if from_logits is None:
        from_logits = _infer(model)
    quantized = layers.quantized_share(model) > 0

    def outputs(x):
        values = _as_array(model.predict_on_batch(x))
        if from_logits or not quantized or values.shape[-1] == 1:
            return _checked(values, from_logits, model)
        return _checked(normalize(values, 1 / 256), False, model)

    return outputs


def _infer(model):
    """Return whether outputs are logits; `False` also for values of a regression."""
    from_logits = infer_from_logits(model)
    loss = getattr(model, "loss", None)
    if from_logits is None and loss is not None:
        name = getattr(loss, "name", None) or getattr(loss, "__name__", loss)
        return False if str(name).startswith(("mean_", "mse", "mae")) else None
    return from_logits


def _of_file(member, from_logits):
    from_logits = member.from_logits if from_logits is None else from_logits

    def outputs(x):
        values = dequantize(member.predict_raw(x), *member.output_quantization)
        return _checked(values, from_logits, member)

    return outputs


def _checked(values, from_logits, teacher) -> np.ndarray:
    """Return probabilities for logits; raise if it is unknown what values are."""
    values = _as_array(values)
    if values.ndim == 1:
        values = values[:, None]
    if from_logits:
        return _sigmoid(values) if values.shape[-1] == 1 else softmax(values)
    if from_logits is None and not _are_probabilities(values):
        name = getattr(teacher, "name", type(teacher).__name__)
        raise ValueError(
            "Expected a teacher whose outputs are known to be logits, or are "
            f"probabilities. Received: {name!r}, whose outputs lie in "
            f"[{values.min():.3g}, {values.max():.3g}]. Pass `from_logits=True` for "
            "logits, or `from_logits=False` for the values of a regression."
        )
    return values


def _are_probabilities(values):
    if not len(values):
        return True
    in_range = values.min() >= 0.0 and values.max() <= 1.0 + 1e-3
    sums = values.sum(axis=-1)
    return in_range and (values.shape[-1] == 1 or np.abs(sums - 1.0).max() < 0.05)


def _sigmoid(logits):
    return 0.5 * (1.0 + np.tanh(0.5 * logits))


def _as_array(values):
    if isinstance(values, dict | list | tuple):
        raise ValueError(
            "Expected a teacher with a single output. Received: "
            f"{len(values)} outputs. Pass a function that returns one of them."
        )
    return np.array(keras.ops.convert_to_numpy(values), "float32")
