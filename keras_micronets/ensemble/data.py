"""Predict with learners on data of any form, and return the targets beside."""

from typing import Any

import numpy as np

from keras_micronets.learners.inputs import (
    as_inputs,
    chunks,
    count_samples,
    is_stream,
    join_inputs,
)
from keras_micronets.learners.labels import encode
from keras_micronets.learners.predictions import progress_bar
from keras_micronets.selection import Targets

__all__ = [
    "as_targets",
    "default_targets",
    "predict_and_read",
    "read_inputs",
    "read_pair",
]

#: Above this many predicted samples of all learners, predictions are mapped from disk.
MAX_IN_MEMORY = 10_000_000


def predict_and_read(
    learners: Any, x: Any, y: Any, sample_weight: Any, batch_size: int, verbose: Any
) -> tuple[np.ndarray, Any, Any]:
    """Return the predictions of learners, the targets and the sample weights.

    A stream is read once. Its inputs are never held in memory together.

    Args:
        learners: A `LearnerPool`, or an object that predicts as one.
        x: Inputs as arrays or frames, `None` for learners that are predictions, or a
            stream of batches with targets.
        y: Targets; `None` with a stream.
        sample_weight: Weights of the samples, or `None`.
        batch_size: Integer, samples per batch.
        verbose: `"auto"` or 1 for a progress bar, 0 for silence.

    Raises:
        ValueError: If targets are missing, or given beside a stream.
    """
    if not is_stream(x):
        if y is None:
            raise ValueError(
                "Expected targets: `prune(x, y)`, or a dataset of batches (x, y). "
                f"Received: y=None and x of type {type(x).__name__}."
            )
        mapped = x is not None and len(learners) * count_samples(x) > MAX_IN_MEMORY
        predictions = learners.predict(
            x, batch_size=batch_size, verbose=verbose, mapped=mapped
        )
        return predictions, y, sample_weight
    if y is not None or sample_weight is not None:
        raise ValueError(
            "Expected y=None and sample_weight=None with a dataset, whose batches "
            f"are (x, y) or (x, y, sample_weight). Received: x of type "
            f"{type(x).__name__} and targets or weights beside."
        )
    parts, targets, weights = [], [], []
    bar = progress_bar(None, verbose)
    for inputs, labels, some in chunks(x):
        if labels is None:
            raise ValueError(
                "Expected a dataset of batches (x, y) or (x, y, sample_weight). "
                "Received: batches without targets."
            )
        parts.append(learners.predict(inputs, batch_size=batch_size, verbose=0))
        del inputs  # before the next chunk is read
        targets.append(labels)
        weights.append(some)
        bar.add(len(labels))
    if not parts:
        raise ValueError("Expected at least one batch. Received: an empty dataset.")
    joined = None if weights[0] is None else np.concatenate(weights)
    return np.concatenate(parts, axis=1), np.concatenate(targets), joined


def default_targets(x: Any, y: Any, task: str) -> Any:
    """Return the targets, which for a reconstruction default to the inputs."""
    is_default = y is None and task == "reconstruction" and not is_stream(x)
    return x if is_default else y


def as_targets(y: Any, task: str, classes: Any, sample_weight: Any = None) -> Targets:
    """Return targets, with labels as indices of the classes.

    Args:
        y: Targets.
        task: One of `edge.TASKS`.
        classes: Labels of the classes, as for `learners.labels.encode`.
        sample_weight: Weights of the samples, or `None`. Defaults to `None`.
    """
    return Targets(encode(y, classes, task), task, sample_weight=sample_weight)


def read_pair(data: Any, task: str) -> tuple[Any, Any]:
    """Return inputs and targets: of a tuple `(x, y)`, or of a stream in memory."""
    if is_stream(data):
        inputs, targets, _ = zip(*chunks(data), strict=True)
        x = join_inputs(inputs)
        y = None if targets[0] is None else np.concatenate(targets)
    else:
        x, y = as_inputs(data[0]), data[1]
    return x, default_targets(x, y, task)


def read_inputs(data: Any) -> np.ndarray:
    """Return inputs: an array, or those of a stream in memory."""
    if not is_stream(data):
        return np.asarray(data)
    return np.concatenate([x for x, *_ in chunks(data)])
