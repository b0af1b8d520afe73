"""Pairs of learners that agree little more than chance would have it."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_micronets.selection.candidates import Candidates
from keras_micronets.selection.diversity.pairwise import kappa_of
from keras_micronets.selection.selection import Selection


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

    The cost is O(learners x learners x samples x log(classes)), and memory for a
    number of 4 bytes a pair of learners.

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
    kappas = kappa_of(found.predictions)
    kappas[np.tri(len(kappas), dtype=bool)] = np.inf
    for pair in _pairs(kappas):
        chosen.update(dict.fromkeys(pair))
        if len(chosen) >= found.n_members:
            break
    return found.select(list(chosen)[: found.n_members], method="kappa_pruning")


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
