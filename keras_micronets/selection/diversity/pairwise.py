"""How much two learners differ, for all pairs of them.

Every matrix is symmetric, in single precision: 400 MB for 10,000 learners. What it is
made of, numbers of samples, is exact.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_micronets.selection.diversity.pairs import (
    correctness,
    over_pairs,
    predicted_classes,
)


def disagreement(probabilities: Any, *, verbose: int = 0) -> np.ndarray:
    """Share of samples on which two learners predict different classes.

    Two learners that are wrong in different ways disagree too. For two classes this
    is the disagreement measure of Kuncheva & Whitaker, who ask who is right.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`.
        verbose: `0`, silent, or `1`, a line of progress. Defaults to `0`.

    Returns:
        Symmetric array of `float32`, shape `(learners, learners)`, values in
        `[0, 1]`, zeros on the diagonal.

    Raises:
        ValueError: If data is bad.

    Example:

    ```python
    disagreement([[[0.9, 0.1]], [[0.2, 0.8]]])  # [[0, 1], [1, 0]]
    ```

    Reference: Skalak, "The Sources of Increased Accuracy for Two Proposed Boosting
    Algorithms", AAAI Workshop on Integrating Multiple Learned Models, 1996.
    """
    return disagreement_of(predicted_classes(probabilities), verbose=verbose)


def disagreement_of(classes: np.ndarray, *, verbose: int = 0) -> np.ndarray:
    """Return `disagreement` of predicted classes, integers `(learners, samples)`."""

    def of_tile(differ, rows, columns):
        return differ / classes.shape[1]

    return over_pairs(classes, of_tile, "disagreement", verbose)


def kappa(probabilities: Any, *, verbose: int = 0) -> np.ndarray:
    """Agreement of two learners on the predicted classes beyond that of chance.

    `(share of samples they agree on - chance) / (1 - chance)`, where chance is that of
    two learners that predict each class as often as these do, but independently. Low
    values are diverse. This is Cohen's kappa, not the kappa of a whole ensemble.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`.
        verbose: `0`, silent, or `1`, a line of progress. Defaults to `0`.

    Returns:
        Symmetric array of `float32`, shape `(learners, learners)`, values in
        `[-1, 1]`, ones on the diagonal. Two learners that both predict the same one
        class always, for which it is 0/0, get 1, as all that always agree.

    Raises:
        ValueError: If data is bad.

    Example:

    ```python
    kappa([[[0.9, 0.1], [0.2, 0.8]], [[0.2, 0.8], [0.9, 0.1]]])  # [[1, -1], [-1, 1]]
    ```

    References: Cohen, "A Coefficient of Agreement for Nominal Scales", Educational and
    Psychological Measurement, 1960. Margineantu & Dietterich, "Pruning Adaptive
    Boosting", ICML 1997.
    """
    return kappa_of(predicted_classes(probabilities), verbose=verbose)


def kappa_of(classes: np.ndarray, *, verbose: int = 0) -> np.ndarray:
    """Return `kappa` of predicted classes, integers `(learners, samples)`."""
    n, n_used = classes.shape[1], int(classes.max()) + 1
    counts = [np.bincount(learner, minlength=n_used) for learner in classes]
    counts = np.array(counts, np.float64)

    def of_tile(differ, rows, columns):
        by_chance = counts[rows] @ counts[columns].T
        return _ratio(n * (n - differ) - by_chance, n**2 - by_chance, undefined=1)

    return over_pairs(classes, of_tile, "kappa", verbose)


def q_statistic(probabilities: Any, y: Any, *, verbose: int = 0) -> np.ndarray:
    """Yule's Q of who is right: `(ad - bc) / (ad + bc)`.

    `a` samples have both learners right, `b` and `c` only one of them, `d` none. It is
    0 for independent learners, and negative if they err on different samples.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`.
        y: Labels, sparse or one-hot; see `as_labels`.
        verbose: `0`, silent, or `1`, a line of progress. Defaults to `0`.

    Returns:
        Symmetric array of `float32`, shape `(learners, learners)`, values in
        `[-1, 1]`, ones on the diagonal. A learner that is always right, or never,
        tells nothing of another, nor of itself: where it is 0/0, it is 0.

    Raises:
        ValueError: If data is bad.

    Example:

    ```python
    p = [[[0.9, 0.1], [0.2, 0.8]], [[0.2, 0.8], [0.9, 0.1]]]
    q_statistic(p, [0, 0])  # [[1, -1], [-1, 1]]
    ```

    Reference: Yule, "On the Association of Attributes in Statistics", Philosophical
    Transactions A, 1900.
    """

    def of_table(a, b, c, d):
        return _ratio(a * d - b * c, a * d + b * c)

    return _of_correctness(
        correctness(probabilities, y), of_table, "Q statistic", verbose
    )


def correlation(probabilities: Any, y: Any, *, verbose: int = 0) -> np.ndarray:
    """Correlation of who is right.

    Pearson's coefficient of two rows of ones and zeros, and Matthews's of one as a
    prediction of the other. It has the sign of `q_statistic`, and is never farther
    from zero.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`.
        y: Labels, sparse or one-hot; see `as_labels`.
        verbose: `0`, silent, or `1`, a line of progress. Defaults to `0`.

    Returns:
        Symmetric array of `float32`, shape `(learners, learners)`, values in
        `[-1, 1]`, ones on the diagonal. A learner that is always right, or never,
        tells nothing of another, nor of itself: where it is 0/0, it is 0.

    Raises:
        ValueError: If data is bad.

    Example:

    ```python
    p = [[[0.9, 0.1], [0.2, 0.8]], [[0.2, 0.8], [0.9, 0.1]]]
    correlation(p, [0, 0])  # [[1, -1], [-1, 1]]
    ```
    """

    def of_table(a, b, c, d):
        variances = (1.0 * (a + b) * (c + d)) * ((a + c) * (b + d))
        return _ratio(a * d - b * c, np.sqrt(variances))

    return _of_correctness(
        correctness(probabilities, y), of_table, "correlation", verbose
    )


def double_fault(probabilities: Any, y: Any, *, verbose: int = 0) -> np.ndarray:
    """Share of samples on which two learners are both wrong.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`.
        y: Labels, sparse or one-hot; see `as_labels`.
        verbose: `0`, silent, or `1`, a line of progress. Defaults to `0`.

    Returns:
        Symmetric array of `float32`, shape `(learners, learners)`, values in
        `[0, 1]`, with the error rates on the diagonal.

    Raises:
        ValueError: If data is bad.

    Example:

    ```python
    p = [[[0.9, 0.1], [0.2, 0.8]], [[0.2, 0.8], [0.2, 0.8]]]
    double_fault(p, [0, 0])  # [[0.5, 0.5], [0.5, 1]]
    ```

    Reference: Giacinto & Roli, "Design of Effective Neural Network Ensembles for Image
    Classification Purposes", Image and Vision Computing, 2001.
    """
    return double_fault_of(correctness(probabilities, y), verbose=verbose)


def double_fault_of(right: np.ndarray, *, verbose: int = 0) -> np.ndarray:
    """Return `double_fault` of who is right, booleans `(learners, samples)`."""

    def of_table(a, b, c, d):
        return d / (a + b + c + d)

    return _of_correctness(right, of_table, "double fault", verbose)


def _of_correctness(
    right: np.ndarray, of_table: Callable, label: str, verbose: int
) -> np.ndarray:
    n, totals = right.shape[1], right.sum(axis=1)

    def of_tile(differ, rows, columns):
        ours, theirs = totals[rows, None], totals[columns]
        both = (ours + theirs - differ) // 2
        return of_table(both, ours - both, theirs - both, n - ours - theirs + both)

    return over_pairs(right.view(np.uint8), of_tile, label, verbose)


def _ratio(above: np.ndarray, below: np.ndarray, undefined: float = 0) -> np.ndarray:
    values = np.full(above.shape, undefined, np.float64)
    return np.divide(above, below, out=values, where=below != 0)
