"""Pairs of learners that agree little more than chance would have it."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_micronets.selection.candidates import Candidates
from keras_micronets.selection.selection import Selection

# Learners that are compared with all others together.
_ROWS = 500


def kappa_pruning(
    probabilities: Any, y: Any, n_members: int = 4, *, random_state: Any = None
) -> Selection:
    """Keep the pairs of learners that agree least, the lowest kappa first.

    Cohen's kappa of two learners is how much more often they predict the same class
    than chance would have it, as a share of what is possible: 1 if they always agree,
    0 for chance. (Two that both predict one and the same class always: 1.) Ties go to
    the pair of the more accurate learners. If only one of a pair's learners is still
    needed it is the more accurate. Labels only order the learners: the diversity is
    that of the predictions, and learners may be kept because they are bad.

    The cost is O(learners x learners x samples x classes), and memory for a number of
    4 bytes a pair of learners.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`.
        y: Labels, sparse or one-hot; see `as_labels`.
        n_members: Integer. How many to keep. Defaults to `4`.
        random_state: Not used; here because all methods share one signature.

    Returns:
        A `Selection` with equal weights.

    Raises:
        ValueError: If there are fewer learners than members, or data is bad.

    Example:

    ```python
    p = [[[0.9, 0.1], [0.2, 0.8]], [[0.8, 0.2], [0.2, 0.8]], [[0.4, 0.6], [0.7, 0.3]]]
    kappa_pruning(p, [0, 1], n_members=2).indices  # array([0, 2])
    ```

    Reference: Margineantu & Dietterich, "Pruning Adaptive Boosting", ICML 1997.
    """
    found = Candidates(probabilities, y, n_members)
    chosen: dict[int, None] = {}  # for its order
    for pair in _pairs(_kappas(found.predictions, found.n_classes)):
        chosen.update(dict.fromkeys(pair))
        if len(chosen) >= found.n_members:
            break
    return found.select(list(chosen)[: found.n_members], method="kappa_pruning")


def _kappas(predictions: np.ndarray, n_classes: int) -> np.ndarray:
    """Return the kappa of each place with those after it; infinity elsewhere."""
    kappas = _agreements(predictions, n_classes)
    n_samples = predictions.shape[1]
    counts = np.stack([(predictions == k).sum(axis=1) for k in range(n_classes)], 1)
    counts = counts.astype(float)
    for start in range(0, len(kappas), _ROWS):
        rows = kappas[start : start + _ROWS]
        chance = counts[start : start + _ROWS] @ counts.T
        # Whole numbers until they are divided, so that equal kappas stay equal.
        possible = n_samples**2 - chance
        excess = n_samples * rows.astype(float) - chance
        rows[:] = np.divide(
            excess, possible, out=np.ones_like(chance), where=possible > 0
        )
    for i, row in enumerate(kappas):
        row[: i + 1] = np.inf
    return kappas


def _agreements(predictions: np.ndarray, n_classes: int) -> np.ndarray:
    """Count, above the diagonal, the samples on which two places predict the same."""
    counts = np.zeros((len(predictions), len(predictions)), np.float32)
    for k in range(n_classes):
        chosen = (predictions == k).astype(np.float32)
        for start in range(0, len(counts), _ROWS):
            part = slice(start, start + _ROWS)
            counts[part, start:] += chosen[part] @ chosen[start:].T
    return counts


def _pairs(values: np.ndarray) -> Iterator[tuple[int, int]]:
    """Go through pairs, the lowest value first; `values` is used up."""
    nearest = values.argmin(axis=1)
    of_nearest = values.min(axis=1)
    while True:
        i = of_nearest.argmin()
        yield int(i), int(nearest[i])
        values[i, nearest[i]] = np.inf
        nearest[i] = values[i].argmin()
        of_nearest[i] = values[i, nearest[i]]
