"""Align the classes of learners, and turn labels into the indices of classes."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["align", "check_columns", "encode", "union_of_classes"]


def union_of_classes(names: Sequence[str], classes: Sequence[Any]) -> np.ndarray | None:
    """Return the classes of all learners, sorted, or `None` if none has labels.

    Args:
        names: Names of the learners.
        classes: For each learner the labels of its columns, or `None`.

    Raises:
        ValueError: If the labels of some learners are text and those of others numbers.
    """
    known = {
        name: np.asarray(some)
        for name, some in zip(names, classes, strict=True)
        if some is not None
    }
    if not known:
        return None
    if len({one.dtype.kind in "OUS" for one in known.values()}) > 1:
        raise ValueError(
            "Expected learners whose classes can be compared. Received: "
            + ", ".join(f"{name!r} with {one.tolist()}" for name, one in known.items())
            + ". Train them on the same labels."
        )
    union = np.unique(np.concatenate([*known.values()]))
    missing = {
        name: np.setdiff1d(union, one).tolist()
        for name, one in known.items()
        if len(one) < len(union)
    }
    if missing:
        warnings.warn(
            "Some learners do not know all classes, whose probability is zero: "
            + ", ".join(f"{name!r} without {some}" for name, some in missing.items())
            + ".",
            stacklevel=2,
        )
    return union


def align(p: np.ndarray, name: str, classes: Any, union: np.ndarray) -> np.ndarray:
    """Return the probabilities of one learner with a column for each class.

    Args:
        p: Array of shape `(samples, classes of the learner)`.
        name: Name of the learner.
        classes: Labels of its columns.
        union: The classes of all learners, sorted.

    Raises:
        ValueError: If it has another number of columns than labels.
    """
    if p.shape[1] != len(classes):
        raise ValueError(
            f"Expected a column for each of {len(classes)} classes. Received: "
            f"{p.shape[1]} columns from {name!r}."
        )
    aligned = np.zeros((len(p), len(union)), p.dtype)
    aligned[:, np.searchsorted(union, classes)] = p
    return aligned


def check_columns(name: str, union: np.ndarray) -> None:
    """Raise a `ValueError` unless columns without labels can be those of all classes.

    Args:
        name: Name of a learner whose columns have no labels.
        union: The classes of the other learners, sorted.
    """
    if not np.array_equal(union, np.arange(len(union))):
        raise ValueError(
            f"Expected learners whose classes are known. Received: {name!r}, whose "
            f"outputs have no labels, beside learners of the classes {union.tolist()}. "
            "Give these integers from 0 as labels, or use learners with `classes_`."
        )


def encode(y: Any, classes: Any, task: str) -> np.ndarray:
    """Return labels as the indices of classes.

    Args:
        y: Labels of shape `(samples,)` or `(samples, 1)`. Others, such as one-hot rows,
            are returned as they are.
        classes: The labels of the classes, or `None` if labels are indices already.
            Then -1 and 1 are taken for the two classes of the task `"binary"`.
        task: One of `edge.TASKS`.

    Raises:
        ValueError: If a label is none of the classes, or is text of unknown classes.
    """
    y = np.asarray(y)
    if task not in ("multiclass", "binary"):
        return y
    if classes is None:
        if y.dtype.kind in "OUS":
            raise ValueError(
                "Expected labels as integers from 0, since the learners have no names "
                f"of classes. Received: {np.unique(y)[:5].tolist()}. Pass "
                "`class_names=[...]` in the order of the outputs, or learners with "
                "`classes_`."
            )
        is_signed = task == "binary" and np.isin(y, (-1, 1)).all() and (y == -1).any()
        return (y > 0).astype(int) if is_signed else y
    classes = np.asarray(classes)
    if y.ndim == 2 and y.shape[1] > 1:
        return y
    flat = y.reshape(-1)
    if flat.dtype.kind not in "OUS" and classes.dtype.kind in "OUS":
        return y  # integers beside names of classes
    index = {label: i for i, label in enumerate(classes.tolist())}
    unknown = [label for label in np.unique(flat).tolist() if label not in index]
    if unknown:
        raise ValueError(
            f"Expected labels out of the classes {classes.tolist()[:20]}. Received: "
            f"{unknown[:5]}."
        )
    return np.array([index[label] for label in flat.tolist()])
