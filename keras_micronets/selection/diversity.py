"""Diversity of learners: of all pairs, or of an ensemble as a whole.

Formulas are those of Kuncheva & Whitaker, "Measures of Diversity in Classifier
Ensembles", Machine Learning, 2003, unless a function says otherwise. `disagreement` and
`kappa` compare predicted classes; all others compare on which samples learners are
right. Pairwise measures return a symmetric matrix in single precision, which takes 400
MB for 10,000 learners; they are computed from exact counts of samples. Where a formula
is 0/0, the function says what it returns; no measure is ever NaN.
"""

from collections.abc import Callable
from itertools import combinations_with_replacement
from typing import Any

import numpy as np

from keras_micronets.selection.validation import (
    as_labels,
    check_probabilities,
    in_blocks,
    progress,
)

__all__ = [
    "correlation",
    "disagreement",
    "double_fault",
    "entropy",
    "generalized_diversity",
    "kappa",
    "kohavi_wolpert",
    "q_statistic",
]

_WORD = 64


def disagreement(probabilities: Any, *, verbose: int = 0) -> np.ndarray:
    """Return the share of samples on which two learners predict different classes.

    Two learners that are wrong in different ways disagree, too. For two classes this is
    the disagreement measure of Kuncheva & Whitaker, who compare correctness.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`.
        verbose: `0`, silent, or `1`, a line of progress. Defaults to `0`.

    Returns:
        Symmetric array of shape `(learners, learners)`, values in `[0, 1]`, zeros on
        the diagonal.

    Example:

    ```python
    disagreement([[[0.9, 0.1]], [[0.2, 0.8]]])  # [[0, 1], [1, 0]]
    ```

    Reference: Skalak, "The Sources of Increased Accuracy for Two Proposed Boosting
    Algorithms", AAAI Workshop on Integrating Multiple Learned Models, 1996.
    """
    return disagreement_of(_predicted_classes(probabilities), verbose=verbose)


def disagreement_of(classes: np.ndarray, *, verbose: int = 0) -> np.ndarray:
    """Return `disagreement` of predicted classes, integers `(learners, samples)`."""

    def of_tile(n_different: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
        return n_different / classes.shape[1]

    return over_pairs(classes, of_tile, "disagreement", verbose)


def kappa(probabilities: Any, *, verbose: int = 0) -> np.ndarray:
    """Return Cohen's kappa, the agreement of two learners beyond chance.

    `(share of samples they agree on - chance) / (1 - chance)`, where chance is that of
    two learners that predict each class as often as these do, but independently. Low
    values are diverse. This is not the kappa of a whole ensemble.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`.
        verbose: `0`, silent, or `1`, a line of progress. Defaults to `0`.

    Returns:
        Symmetric array of shape `(learners, learners)`, values in `[-1, 1]`, ones on
        the diagonal; 1 for two learners that always predict the same one class (0/0).

    Example:

    ```python
    kappa([[[0.9, 0.1], [0.2, 0.8]], [[0.2, 0.8], [0.9, 0.1]]])  # [[1, -1], [-1, 1]]
    ```

    References: Cohen, "A Coefficient of Agreement for Nominal Scales", Educational and
    Psychological Measurement, 1960. Margineantu & Dietterich, "Pruning Adaptive
    Boosting", ICML 1997.
    """
    return kappa_of(_predicted_classes(probabilities), verbose=verbose)


def kappa_of(classes: np.ndarray, *, verbose: int = 0) -> np.ndarray:
    """Return `kappa` of predicted classes, integers `(learners, samples)`."""
    n, n_used = classes.shape[1], int(classes.max()) + 1
    counts = [np.bincount(learner, minlength=n_used) for learner in classes]
    counts = np.array(counts, np.float64)

    def of_tile(n_different: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
        by_chance = counts[rows] @ counts[columns].T
        return _ratio(n * (n - n_different) - by_chance, n**2 - by_chance, undefined=1)

    return over_pairs(classes, of_tile, "kappa", verbose)


def q_statistic(probabilities: Any, y: Any, *, verbose: int = 0) -> np.ndarray:
    """Return Yule's Q of two learners' correctness: `(ad - bc) / (ad + bc)`.

    Both learners are right on `a` samples, only one on `b` and on `c`, neither on `d`.
    It is 0 for independent learners, and negative if they are wrong on different
    samples.

    Args:
        probabilities, y, verbose: See `disagreement` and `as_labels`.

    Returns:
        Symmetric array of shape `(learners, learners)`, values in `[-1, 1]`, ones on
        the diagonal; 0 for a learner that is always or never right (0/0).

    Example:

    ```python
    p = [[[0.9, 0.1], [0.2, 0.8]], [[0.2, 0.8], [0.9, 0.1]]]
    q_statistic(p, [0, 0])  # [[1, -1], [-1, 1]]
    ```

    Reference: Yule, "On the Association of Attributes in Statistics", Philosophical
    Transactions A, 1900.
    """
    return over_tables(
        _correctness(probabilities, y),
        lambda a, b, c, d: _ratio(a * d - b * c, a * d + b * c),
        "Q statistic",
        verbose,
    )


def correlation(probabilities: Any, y: Any, *, verbose: int = 0) -> np.ndarray:
    """Return Pearson's correlation of two learners' correctness.

    It equals Matthews's coefficient of one as a prediction of the other. It has the
    sign of `q_statistic`, and is never farther from zero.

    Args:
        probabilities, y, verbose: See `disagreement` and `as_labels`.

    Returns:
        Symmetric array of shape `(learners, learners)`, values in `[-1, 1]`, ones on
        the diagonal; 0 for a learner that is always or never right (0/0).

    Example:

    ```python
    p = [[[0.9, 0.1], [0.2, 0.8]], [[0.2, 0.8], [0.9, 0.1]]]
    correlation(p, [0, 0])  # [[1, -1], [-1, 1]]
    ```
    """

    def of_counts(a: Any, b: Any, c: Any, d: Any) -> np.ndarray:
        variances = (1.0 * (a + b) * (c + d)) * ((a + c) * (b + d))
        return _ratio(a * d - b * c, np.sqrt(variances))

    right = _correctness(probabilities, y)
    return over_tables(right, of_counts, "correlation", verbose)


def double_fault(probabilities: Any, y: Any, *, verbose: int = 0) -> np.ndarray:
    """Return the share of samples on which two learners are both wrong.

    Args:
        probabilities, y, verbose: See `disagreement` and `as_labels`.

    Returns:
        Symmetric array of shape `(learners, learners)`, values in `[0, 1]`, with the
        error rates on the diagonal.

    Example:

    ```python
    p = [[[0.9, 0.1], [0.2, 0.8]], [[0.2, 0.8], [0.2, 0.8]]]
    double_fault(p, [0, 0])  # [[0.5, 0.5], [0.5, 1]]
    ```

    Reference: Giacinto & Roli, "Design of Effective Neural Network Ensembles for Image
    Classification Purposes", Image and Vision Computing, 2001.
    """
    return double_fault_of(_correctness(probabilities, y), verbose=verbose)


def double_fault_of(right: np.ndarray, *, verbose: int = 0) -> np.ndarray:
    """Return `double_fault` of correctness, booleans `(learners, samples)`."""
    return over_tables(
        right, lambda a, b, c, d: d / (a + b + c + d), "double fault", verbose
    )


def entropy(probabilities: Any, y: Any) -> float:
    """Return how evenly learners split into right and wrong, averaged over samples.

    `min(l, L - l) / floor(L / 2)` for the `l` of `L` learners that are right on a
    sample, averaged over samples. This is the measure E of Kuncheva & Whitaker, without
    logarithms, not the entropy of the votes of Cunningham & Carney.

    Args:
        probabilities, y: See `check_probabilities` and `as_labels`.

    Returns:
        Float in `[0, 1]`: 1 if half of the learners are right on every sample, 0 for a
        single learner (0/0).

    Example:

    ```python
    entropy([[[0.9, 0.1], [0.2, 0.8]], [[0.9, 0.1], [0.9, 0.1]]], [0, 0])  # 0.5
    ```
    """
    right, n_learners = _count_right(probabilities, y)
    minority = np.minimum(right, n_learners - right)
    return float(minority.mean() / max(1, n_learners // 2))


def kohavi_wolpert(probabilities: Any, y: Any) -> float:
    """Return the variance of correctness over the learners, averaged over samples.

    `l (L - l) / L^2` for the `l` of `L` learners that are right on a sample. It is
    `(L - 1) / 2L` times the mean share of samples on which one learner of a pair is
    right and the other is wrong.

    Args:
        probabilities, y: See `check_probabilities` and `as_labels`.

    Returns:
        Float in `[0, 0.25]`. High is diverse; 0 for a single learner.

    Example:

    ```python
    p = [[[0.9, 0.1], [0.2, 0.8]], [[0.9, 0.1], [0.9, 0.1]]]
    kohavi_wolpert(p, [0, 0])  # (0 + 1 / 4) / 2 = 0.125
    ```

    Reference: Kohavi & Wolpert, "Bias Plus Variance Decomposition for Zero-One Loss
    Functions", ICML 1996.
    """
    right, n_learners = _count_right(probabilities, y)
    return float((right * (n_learners - right)).mean() / n_learners**2)


def generalized_diversity(probabilities: Any, y: Any) -> float:
    """Return how rarely a second learner fails where one does: `1 - p(2) / p(1)`.

    `p(1)` is the probability that a random learner fails on a random sample, and `p(2)`
    that two different random learners both do.

    Args:
        probabilities, y: See `check_probabilities` and `as_labels`.

    Returns:
        Float in `[0, 1]`: 1 if no two learners ever fail together, 0 if all always do,
        and for a single learner or learners that never fail (0/0).

    Example:

    ```python
    p = [[[0.9, 0.1], [0.2, 0.8]], [[0.2, 0.8], [0.9, 0.1]]]
    generalized_diversity(p, [0, 0])  # 1.0
    ```

    Reference: Partridge & Krzanowski, "Software Diversity: Practical Statistics for
    its Measurement and Exploitation", Information and Software Technology, 1997.
    """
    right, n_learners = _count_right(probabilities, y)
    wrong = n_learners - right
    one, two = wrong.sum() * (n_learners - 1), (wrong * (wrong - 1)).sum()
    return float(1 - two / one) if one else 0.0


def over_tables(
    right: np.ndarray, of_counts: Callable[..., np.ndarray], label: str, verbose: int
) -> np.ndarray:
    """Return a matrix of a function of four counts of samples.

    Both learners are right on `a` samples, only one on `b` and on `c`, neither on `d`.

    Args:
        right: Booleans of shape `(learners, samples)`.
        of_counts: Callable of four integer arrays that returns one of their shape.
        label: String, the name of the measure.
        verbose: `0`, silent, or `1`, a line of progress on standard error.
    """
    n, totals = right.shape[1], right.sum(axis=1)

    def of_tile(n_different: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
        first, second = totals[rows, None], totals[columns]
        both = (first + second - n_different) // 2
        return of_counts(both, first - both, second - both, n - first - second + both)

    return over_pairs(right.view(np.uint8), of_tile, label, verbose)


def over_pairs(
    codes: np.ndarray, measure: Callable[..., np.ndarray], label: str, verbose: int
) -> np.ndarray:
    """Return a matrix of a function of how often two learners differ.

    Samples are bits: comparing two learners on 64 of them takes one operation for each
    bit of a class. The matrix is computed in tiles, together with their mirror images.

    Args:
        codes: Unsigned integers of shape `(learners, samples)` to compare.
        measure: Callable of a tile: integers of shape `(rows, columns)`, the number of
            samples on which two learners differ; the slice of the rows, and that of the
            columns. Returns numbers of the same shape, symmetric in the two.
        label: String, the name of the measure.
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
        tile = measure(_count_different(planes, rows, columns), rows, columns)
        matrix[rows, columns] = tile
        matrix[columns, rows] = tile.T
    return matrix


def _predicted_classes(probabilities: Any) -> np.ndarray:
    return _argmax(check_probabilities(probabilities))


def _argmax(p: np.ndarray) -> np.ndarray:
    classes = np.empty(p.shape[:2], np.min_scalar_type(p.shape[2] - 1))
    for part, block in in_blocks(p):
        classes[part] = block.argmax(axis=2)
    return classes


def _correctness(probabilities: Any, y: Any) -> np.ndarray:
    p = check_probabilities(probabilities)
    y = as_labels(y, p.shape[2], p.shape[1])
    return _argmax(p) == y


def _count_right(probabilities: Any, y: Any) -> tuple[np.ndarray, int]:
    """Return how many learners are right on each sample, and how many there are."""
    right = _correctness(probabilities, y)
    return right.sum(axis=0), len(right)


def _bit_planes(codes: np.ndarray) -> np.ndarray:
    """Pack the k-th bits of 64 samples into a word: `(bits, words, learners)`."""
    codes = np.pad(codes, ((0, 0), (0, -codes.shape[1] % _WORD)))
    n_bits = max(1, int(codes.max()).bit_length())
    planes = [np.packbits(codes >> k & 1, axis=1) for k in range(n_bits)]
    return np.stack([plane.view(np.uint64).T for plane in planes]).copy()


def _count_different(planes: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    others = planes[:, :, columns].copy()
    counts = np.empty((rows.stop - rows.start, others.shape[2]), np.int64)
    for count, i in zip(counts, range(rows.start, rows.stop), strict=True):
        differ = np.bitwise_or.reduce(planes[:, :, i, None] ^ others)
        np.bitwise_count(differ).sum(axis=0, dtype=np.int64, out=count)
    return counts


def _ratio(above: np.ndarray, below: np.ndarray, undefined: float = 0) -> np.ndarray:
    values = np.full(above.shape, undefined, np.float64)
    return np.divide(above, below, out=values, where=below != 0)
