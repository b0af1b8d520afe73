"""Scores that depend on nothing but the predicted class, sample by sample."""

import numpy as np

# Predictions that are looked up together.
_BLOCK = 2**19


def look_up(table: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Sum what a table says of each predicted class.

    Args:
        table: Array of shape `(samples, classes)`.
        predictions: Integer array of shape `(learners, samples)`.

    Returns:
        Array of shape `(learners,)`.
    """
    samples = np.arange(len(table))
    sums = np.empty(len(predictions), table.dtype)
    length = max(1, _BLOCK // len(table))
    for start in range(0, len(predictions), length):
        part = slice(start, start + length)
        sums[part] = table[samples, predictions[part]].sum(axis=1)
    return sums


def runners_up(votes: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the most votes for any class but one.

    Args:
        votes: Integer array of shape `(samples, classes)`.
        classes: Integer array of shape `(samples,)`, the class to leave out.

    Returns:
        Integer array of shape `(samples,)`.
    """
    others = votes.copy()
    others[np.arange(len(votes)), classes] = -1
    return others.max(axis=1)
