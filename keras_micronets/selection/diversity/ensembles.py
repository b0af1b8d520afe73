"""How much the learners of an ensemble differ, in one number.

Each is a function of how many of the learners are right on a sample.
"""

from typing import Any

import numpy as np

from keras_micronets.selection.diversity.pairs import correctness


def entropy(probabilities: Any, y: Any) -> float:
    """Mean share of learners in the minority, of those who are right and those wrong.

    `min(l, L - l) / floor(L / 2)` for the `l` of `L` learners that are right on a
    sample, averaged over samples: 1 if half of them are right on every sample. This is
    the measure E of Kuncheva & Whitaker, without logarithms, not the entropy of the
    votes for the classes of Cunningham & Carney.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`.
        y: Labels, sparse or one-hot; see `as_labels`.

    Returns:
        Float in `[0, 1]`. High is diverse. A single learner, for which it is 0/0, has
        none: 0.

    Raises:
        ValueError: If data is bad.

    Example:

    ```python
    entropy([[[0.9, 0.1], [0.2, 0.8]], [[0.9, 0.1], [0.9, 0.1]]], [0, 0])  # 0.5
    ```

    Reference: Kuncheva & Whitaker, "Measures of Diversity in Classifier Ensembles",
    Machine Learning, 2003.
    """
    right, n_learners = _right(probabilities, y)
    minority = np.minimum(right, n_learners - right)
    return float(minority.mean() / max(1, n_learners // 2))


def kohavi_wolpert(probabilities: Any, y: Any) -> float:
    """Variance of being right over the learners, averaged over samples.

    `l (L - l) / L^2` for the `l` of `L` learners that are right on a sample. It is
    `(L - 1) / 2L` times the mean share of samples on which one learner of a pair is
    right and the other is not.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`.
        y: Labels, sparse or one-hot; see `as_labels`.

    Returns:
        Float in `[0, 0.25]`. High is diverse. It is 0 for a single learner.

    Raises:
        ValueError: If data is bad.

    Example:

    ```python
    p = [[[0.9, 0.1], [0.2, 0.8]], [[0.9, 0.1], [0.9, 0.1]]]
    kohavi_wolpert(p, [0, 0])  # (0 + 1 / 4) / 2 = 0.125
    ```

    References: Kohavi & Wolpert, "Bias Plus Variance Decomposition for Zero-One Loss
    Functions", ICML 1996. Kuncheva & Whitaker, "Measures of Diversity in Classifier
    Ensembles", Machine Learning, 2003.
    """
    right, n_learners = _right(probabilities, y)
    return float((right * (n_learners - right)).mean() / n_learners**2)


def generalized_diversity(probabilities: Any, y: Any) -> float:
    """How rarely a second learner fails where one does: `1 - p(2) / p(1)`.

    `p(1)` is the probability that a learner drawn at random fails on a sample drawn at
    random, and `p(2)` that two different learners drawn at random both do.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`.
        y: Labels, sparse or one-hot; see `as_labels`.

    Returns:
        Float in `[0, 1]`: 1 if no two learners ever fail together, 0 if all always do.
        A single learner, and learners that never fail, for which it is 0/0, have
        none: 0.

    Raises:
        ValueError: If data is bad.

    Example:

    ```python
    p = [[[0.9, 0.1], [0.2, 0.8]], [[0.2, 0.8], [0.9, 0.1]]]
    generalized_diversity(p, [0, 0])  # 1.0
    ```

    Reference: Partridge & Krzanowski, "Software Diversity: Practical Statistics for
    its Measurement and Exploitation", Information and Software Technology, 1997.
    """
    right, n_learners = _right(probabilities, y)
    wrong = n_learners - right
    one, two = wrong.sum() * (n_learners - 1), (wrong * (wrong - 1)).sum()
    return float(1 - two / one) if one else 0.0


def _right(probabilities: Any, y: Any) -> tuple[np.ndarray, int]:
    right = correctness(probabilities, y)
    return right.sum(axis=0), len(right)
