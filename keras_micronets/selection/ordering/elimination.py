"""Ensembles that shrink by the learner that is missed the least."""

from typing import Any

import numpy as np

from keras_micronets.selection.candidates import Candidates
from keras_micronets.selection.ordering._means import mean_of
from keras_micronets.selection.ordering._ties import lowest
from keras_micronets.selection.selection import Selection


def backward_elimination(
    probabilities: Any,
    y: Any,
    n_members: int = 4,
    *,
    start: int | None = None,
    loss: str = "nll",
    random_state: Any = None,
) -> Selection:
    """Drop, one after the other, the learner without which the rest does best.

    The rest does best where the loss of its mean probability is lowest. Among equals
    the least accurate is dropped.

    The cost is O(start x start x samples), with `loss="error"` times the classes: it
    grows with the square of the pool. On two cores, 1,000 learners of 2,000 samples
    take ten seconds and 10,000 a quarter of an hour; 1,000 by the error, of 10 classes,
    take a minute. Begin with fewer by `start`.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`.
        y: Labels, sparse or one-hot; see `as_labels`.
        n_members: Integer. How many to keep. Defaults to `4`.
        start: Integer, how many to begin with, the most accurate. Defaults to `None`,
            all.
        loss: `"nll"`, the negative log-likelihood, or `"error"`, the share of samples
            that are wrong. Defaults to `"nll"`.
        random_state: Not used; here because all methods share one signature.

    Returns:
        A `Selection` with equal weights.

    Raises:
        ValueError: If there are fewer learners than members, `start` is not between
            the two, `loss` is unknown, or data is bad.

    Example:

    ```python
    p = [[[0.9, 0.1], [0.8, 0.2]], [[0.9, 0.1], [0.7, 0.3]], [[0.4, 0.6], [0.1, 0.9]]]
    backward_elimination(p, [0, 1], n_members=2).indices  # array([1, 2])
    ```

    Reference: Alhalabi, Gaber & Basurra, "EnSyth: A Pruning Approach to Synthesis of
    Deep Learning Ensembles", SMC 2019, which looks at the error.
    """
    found = Candidates(probabilities, y, n_members)
    left = np.arange(_check_start(start, found))
    mean = mean_of(found, loss)
    for place in left:
        mean.add(place)
    while len(left) > found.n_members:
        missed_least = np.flatnonzero(lowest(mean.losses(left, sign=-1)))[-1]
        mean.add(left[missed_least], sign=-1)
        left = np.delete(left, missed_least)
    return found.select(left, method=f"backward_elimination by {loss}")


def _check_start(start: int | None, found: Candidates) -> int:
    if start is None:
        return len(found)
    if not found.n_members <= start <= len(found):
        raise ValueError(
            f"Expected start from n_members={found.n_members} to {len(found)}, the "
            f"number of learners. Received: {start=}."
        )
    return start
