"""All pairs of learners, by the number of samples on which two of them differ."""

from collections.abc import Callable
from itertools import combinations_with_replacement
from typing import Any

import numpy as np

from keras_micronets.selection.blocks import in_blocks
from keras_micronets.selection.progress import progress
from keras_micronets.selection.validation import as_labels, check_probabilities

_WORD = 64


def predicted_classes(probabilities: Any) -> np.ndarray:
    """Return the predicted classes, unsigned integers `(learners, samples)`."""
    return _argmax(check_probabilities(probabilities))


def correctness(probabilities: Any, y: Any) -> np.ndarray:
    """Return whether a learner is right on a sample, booleans `(learners, samples)`."""
    p = check_probabilities(probabilities)
    y = as_labels(y, p.shape[2], p.shape[1])
    return _argmax(p) == y


def over_pairs(
    codes: np.ndarray, measure: Callable[..., np.ndarray], label: str, verbose: int
) -> np.ndarray:
    """Make a matrix of what a measure says of any two learners.

    Samples are bits: whether two learners differ on 64 of them takes one operation
    for each bit of a class. A tile of the matrix is made at a time, and that tile's
    mirror image with it.

    Args:
        codes: Unsigned integers of shape `(learners, samples)`: what the learners say.
        measure: Callable of a tile: integers of shape `(rows, columns)`, on how many
            samples two learners differ; the slice of the rows, and that of the
            columns. Returns numbers of the same shape, symmetric in the two.
        label: String. What is measured.
        verbose: `0`, silent, or `1`, a line of progress on standard error.

    Returns:
        Symmetric array of `float32`, shape `(learners, learners)`.
    """
    n, planes = len(codes), _bit_planes(codes)
    # Tiles whose words stay in the processor's cache.
    size = int(np.clip(2**14 // planes.shape[1], 64, 512))
    parts = [slice(start, min(start + size, n)) for start in range(0, n, size)]
    tiles = list(combinations_with_replacement(parts, 2))
    matrix = np.empty((n, n), np.float32)
    for rows, columns in progress(tiles, len(tiles), label, verbose):
        tile = measure(_differing(planes, rows, columns), rows, columns)
        matrix[rows, columns] = tile
        matrix[columns, rows] = tile.T
    return matrix


def _argmax(p: np.ndarray) -> np.ndarray:
    classes = np.empty(p.shape[:2], np.min_scalar_type(p.shape[2] - 1))
    for part, block in in_blocks(p):
        classes[part] = block.argmax(axis=2)
    return classes


def _bit_planes(codes: np.ndarray) -> np.ndarray:
    """Pack the k-th bits of 64 samples into a word: `(bits, words, learners)`."""
    codes = np.pad(codes, ((0, 0), (0, -codes.shape[1] % _WORD)))
    n_bits = max(1, int(codes.max()).bit_length())
    planes = [np.packbits(codes >> k & 1, axis=1) for k in range(n_bits)]
    return np.stack([plane.view(np.uint64).T for plane in planes]).copy()


def _differing(planes: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    theirs = planes[:, :, columns].copy()
    counts = np.empty((rows.stop - rows.start, theirs.shape[2]), np.int64)
    for count, i in zip(counts, range(rows.start, rows.stop), strict=True):
        differ = np.bitwise_or.reduce(planes[:, :, i, None] ^ theirs)
        np.bitwise_count(differ).sum(axis=0, dtype=np.int64, out=count)
    return counts
