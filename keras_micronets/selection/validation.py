"""Validate arrays of probabilities and labels, and iterate over large ones."""

import operator
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

__all__ = ["as_labels", "check_n_members", "check_probabilities"]

BLOCK_BYTES = 2**26

_Item = TypeVar("_Item")
_LOGITS = (
    "These may be logits: pass `from_logits=True` when adding the learner. "
    "(An int8 softmax is a few 1/256 off: divide each row by its sum.)"
)


def check_probabilities(
    probabilities: Any, names: Sequence[str] | None = None
) -> np.ndarray:
    """Check an array of the class probabilities that learners predict.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`, each row of
            classes non-negative and summing to one within `1e-3`; or of shape
            `(learners, samples, 1)`, the probability of one event.
        names: Sequence of strings, one for each learner, by which errors name them.
            Defaults to `None`: indices.

    Returns:
        The same values as a floating-point array. Floats are not copied and, where they
        are memory-mapped, stay on disk; integers become `float64`. The probability of
        an event becomes the two columns `[1 - p, p]`.

    Raises:
        ValueError: If there is no learner, or the shape or a value is invalid; the
            message names the first learner concerned.

    Example:

    ```python
    check_probabilities([[[0.9, 0.1], [0.2, 0.8]]]).shape  # (1, 2, 2)
    ```
    """
    p = _as_array(probabilities)
    if p.shape[:1] == (0,):
        raise ValueError(
            "Expected at least one learner. Received: an empty pool, "
            f"probabilities of shape {p.shape}. Add learners to it first."
        )
    if p.ndim != 3 or p.shape[1] == 0:
        raise ValueError(
            "Expected probabilities of shape (learners, samples, classes) with at "
            f"least one sample. Received: shape {p.shape}."
        )
    if p.shape[2] == 1:
        p = np.concatenate([1 - p, p], axis=2)
    for part, block in in_blocks(p):
        _check_block(block, part.start, names)
    return p


def as_labels(y: Any, n_classes: int, n_samples: int) -> np.ndarray:
    """Convert labels, sparse or one-hot, to integers of shape `(samples,)`.

    Args:
        y: Integer labels of shape `(samples,)` or `(samples, 1)`, or one-hot rows of
            shape `(samples, classes)`. Floats with integer values are accepted.
        n_classes: Integer, the number of classes.
        n_samples: Integer, the number of samples.

    Returns:
        Array of `int64`, shape `(samples,)`, values in `[0, n_classes)`.

    Raises:
        ValueError: If the shape, length or a value is invalid.

    Example:

    ```python
    as_labels([[0, 0, 1], [1, 0, 0]], n_classes=3, n_samples=2)  # array([2, 0])
    ```
    """
    y = np.asarray(y)
    if y.dtype.kind not in "biuf":
        raise ValueError(f"Expected numeric labels. Received: dtype {y.dtype}.")
    if y.shape not in {(n_samples,), (n_samples, 1), (n_samples, n_classes)}:
        raise ValueError(
            f"Expected labels of shape ({n_samples},), ({n_samples}, 1) or one-hot "
            f"({n_samples}, {n_classes}), to fit {n_samples} samples and {n_classes} "
            f"classes. Received: shape {y.shape}."
        )
    if y.shape == (n_samples, n_classes):
        return _from_one_hot(y)
    labels = y.reshape(-1)
    broken = ~np.isfinite(labels) | (labels != np.floor(labels))
    if broken.any():
        raise ValueError(
            f"Expected integer labels. Received: {_first(labels, broken)}."
        )
    outside = (labels < 0) | (labels >= n_classes)
    if outside.any():
        raise ValueError(
            f"Expected labels from 0 to {n_classes - 1}, as there are {n_classes} "
            f"classes. Received: {_first(labels, outside)}."
        )
    return labels.astype(np.int64)


def check_n_members(n_members: Any, n_learners: int) -> int:
    """Check that `n_members` is an integer from one to the number of learners.

    Raises:
        TypeError: If it is not an integer.
        ValueError: If it is less than one or more than there are learners.
    """
    try:
        n_members = operator.index(n_members)
    except TypeError:
        raise TypeError(
            f"Expected an integer number of members. Received: n_members={n_members!r}."
        ) from None
    if not 1 <= n_members <= n_learners:
        raise ValueError(
            f"Expected n_members from 1 to {n_learners}, the number of learners. "
            f"Received: n_members={n_members}. Lower it, or add learners."
        )
    return n_members


def check_sample_weight(sample_weight: Any, n_samples: int) -> np.ndarray | None:
    """Return the weights of samples as `float64`, `None` for `None`.

    Raises:
        ValueError: If they are not one finite, non-negative number for each sample, or
            all zero.
    """
    if sample_weight is None:
        return None
    weights = np.asarray(sample_weight, np.float64)
    valid = weights.shape == (n_samples,) and np.isfinite(weights).all()
    if not valid or (weights < 0).any() or not weights.sum() > 0:
        raise ValueError(
            f"Expected finite, non-negative weights of shape ({n_samples},), one for "
            f"each sample, not all zero. Received: shape {weights.shape}."
        )
    return weights


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raise a `ValueError` unless an argument is one of some strings."""
    if value not in [*choices]:
        raise ValueError(
            f"Expected {name} to be one of {[*choices]}. Received: {name}={value!r}."
        )


def in_blocks(p: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Iterate over the learners of a large array, which may be memory-mapped.

    Args:
        p: Floating-point array of shape `(learners, samples, classes)`.

    Yields:
        A slice of the learners, and their probabilities in single or double precision.
    """
    length = max(1, BLOCK_BYTES // max(1, p[0].size * 8))
    for start in range(0, len(p), length):
        part = slice(start, start + length)
        yield part, as_float(p[part])


def as_float(p: np.ndarray) -> np.ndarray:
    """Convert half precision, a storage format only, to single precision."""
    return p.astype(np.promote_types(p.dtype, np.float32), copy=False)


def progress(
    iterable: Iterable[_Item], total: int, label: str, verbose: int
) -> Iterable[_Item]:
    """Iterate, and write a line of progress in percent to standard error.

    Args:
        iterable: The items.
        total: Integer, the number of items.
        label: String, the name of the task.
        verbose: `0`, silent, or `1`.

    Returns:
        An iterable of the same items.

    Example:

    ```python
    for i in progress(range(50), 50, "disagreement", verbose=1):
        ...  # disagreement: 42%
    ```
    """
    return _with_progress(iterable, total, label) if verbose else iterable


def _with_progress(
    iterable: Iterable[_Item], total: int, label: str
) -> Iterator[_Item]:
    shown = None
    try:
        for done, item in enumerate(iterable):
            percent = 100 * done // total
            if percent != shown:
                _write(f"\r{label}: {percent}%")
                shown = percent
            yield item
        _write(f"\r{label}: 100%")
    finally:
        _write("\n")


def _write(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


def as_numbers(
    values: Any, name: str, learners: Sequence[str] | None = None
) -> np.ndarray:
    """Return finite floating-point numbers, or raise a `ValueError`.

    Args:
        values: Array.
        name: String, what the numbers are.
        learners: The names of the learners along the first axis, if they are known.
    """
    array = as_float(_as_array(values, name))
    if not np.isfinite(array).all():
        first = np.argwhere(~np.isfinite(array))[0].tolist()
        origin = "" if learners is None else f" from {learner_name(first[0], learners)}"
        raise ValueError(
            f"Expected finite {name}. Received: {array[tuple(first)]}{origin} at index "
            f"{first}."
        )
    return array


def learner_name(learner: int, names: Sequence[str] | None) -> str:
    """Return how errors name a learner: by its name, if that is known, or its index."""
    if names is None or learner >= len(names):
        return f"learner {learner}"
    return f"learner {names[learner]!r}"


def _as_array(values: Any, name: str = "probabilities") -> np.ndarray:
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(
            "Expected learners with equal numbers of samples and classes. "
            f"Received: {error}"
        ) from None
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"Expected {name} as real numbers. Received: dtype {array.dtype}."
        )
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def _check_block(p: np.ndarray, start: int, names: Sequence[str] | None) -> None:
    with np.errstate(invalid="ignore", over="ignore"):
        # A NaN or an infinity in a row shows in its sum: no mask as large as `p`.
        sums = np.einsum("lsc->ls", p)
        valid = (np.abs(sums - 1) <= 1e-3).all() and p.min() >= 0
    if not valid:
        _raise_for_block(p, sums, start, names)


def _raise_for_block(
    p: np.ndarray, sums: np.ndarray, start: int, names: Sequence[str] | None
) -> None:
    for invalid, received in (
        (~np.isfinite(sums), "NaN or infinity"),
        (p.min(axis=-1) < 0, "a negative value. " + _LOGITS),
        (np.abs(sums - 1) > 1e-3, "a row summing to {:.4g}. " + _LOGITS),
    ):
        if invalid.any():
            learner, sample = np.argwhere(invalid)[0]
            raise ValueError(
                "Expected finite, non-negative probabilities that sum to one over the "
                f"classes. Received: from {learner_name(start + learner, names)}, at "
                f"sample {sample}, " + received.format(sums[learner, sample])
            )


def _from_one_hot(y: np.ndarray) -> np.ndarray:
    invalid = ((y != 0) & (y != 1)).any(axis=1) | (y.sum(axis=1, dtype=float) != 1)
    if invalid.any():
        raise ValueError(
            "Expected one-hot rows: a single 1, otherwise 0. "
            f"Received: {_first(y, invalid)}. For soft labels give their argmax."
        )
    return y.argmax(axis=1)


def _first(values: np.ndarray, invalid: np.ndarray) -> str:
    index = int(np.argmax(invalid))
    return f"{values[index]} at sample {index}"
