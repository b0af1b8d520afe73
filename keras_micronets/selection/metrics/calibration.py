"""How honest a predictor is: whether it is right as often as it says."""

from typing import Any

import numpy as np

from keras_micronets.selection.metrics.inputs import mean_of_ties, one_predictor
from keras_micronets.selection.validation import as_labels


def expected_calibration_error(
    probabilities: Any, y: Any, *, n_bins: int = 15
) -> np.floating:
    """Mean gap between the confidence of one predictor and its accuracy.

    Samples are put into bins of equal width by the probability of the predicted
    class; the gaps of the bins are averaged by the samples in them.

    Args:
        probabilities: Array of shape `(samples, classes)`: one predictor.
        y: Labels, sparse or one-hot; see `as_labels`.
        n_bins: Integer. Number of bins over `(0, 1]`. Defaults to `15`.

    Returns:
        Float in `[0, 1]`. Zero is perfect.

    Raises:
        ValueError: If several learners are given, or `n_bins` is less than one.

    Example:

    ```python
    expected_calibration_error([[0.8, 0.2], [0.8, 0.2]], [0, 1])  # 0.3
    ```

    Reference: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """
    p = one_predictor(probabilities)
    labels = as_labels(y, *p.shape[::-1])
    _check_bins(n_bins)
    confidence = p.max(axis=1)
    gap = (p.argmax(axis=1) == labels) - confidence
    inner_edges = np.linspace(0, 1, n_bins + 1)[1:-1]
    bins = np.digitize(confidence, inner_edges, right=True)
    return np.abs(np.bincount(bins, weights=gap)).sum() / len(labels)


def adaptive_calibration_error(
    probabilities: Any, y: Any, *, n_bins: int = 15, of: str = "all"
) -> np.floating:
    """Mean gap between probabilities and frequencies, in bins of equally many samples.

    For one class at a time, samples are sorted by its probability and cut into bins
    whose sizes differ by one at most. The gap of a bin is the absolute difference of
    the mean probability and the share of samples that are of this class. Gaps are
    averaged over the bins, weighted by the samples in them, then over the classes.

    Where a cut falls among samples of equal probability, each of them counts as of
    this class by their common share: the order of the samples changes nothing.

    Args:
        probabilities: Array of shape `(samples, classes)`: one predictor.
        y: Labels, sparse or one-hot; see `as_labels`.
        n_bins: Integer. Number of bins; where there are fewer samples, a bin for each.
            Defaults to `15`.
        of: `"all"`, every class, as in the reference, without a threshold, or
            `"predicted"`, the predicted class alone: `expected_calibration_error`
            with equal numbers in place of equal widths. Defaults to `"all"`.

    Returns:
        Float in `[0, 1]`. Zero is perfect. For many classes it is small by nature
        with `of="all"`, as most probabilities are.

    Raises:
        ValueError: If several learners are given, `n_bins` is less than one, `of` is
            unknown, or data is bad.

    Example:

    ```python
    p = [[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.4, 0.6]]
    adaptive_calibration_error(p, [0, 0, 1, 1], n_bins=2)  # (0.15 + 0.5) / 2 = 0.325
    ```

    Reference: Nixon et al., "Measuring Calibration in Deep Learning", CVPR Workshops
    2019.
    """
    if of not in ("all", "predicted"):
        raise ValueError(f"Expected of='all' or of='predicted'. Received: {of=}.")
    _check_bins(n_bins)
    p = one_predictor(probabilities)
    labels = as_labels(y, *p.shape[::-1])
    if of == "predicted":
        return _adaptive_gap(p.max(axis=1), p.argmax(axis=1) == labels, n_bins)
    gaps = [_adaptive_gap(column, labels == k, n_bins) for k, column in enumerate(p.T)]
    return np.mean(gaps)


def _adaptive_gap(p: np.ndarray, happened: np.ndarray, n_bins: int) -> np.floating:
    gaps = (mean_of_ties(p, happened) - p)[np.argsort(p)]
    n_bins = min(n_bins, len(p))
    starts = np.arange(n_bins) * len(p) // n_bins
    return np.abs(np.add.reduceat(gaps, starts)).sum() / len(p)


def _check_bins(n_bins: int) -> None:
    if n_bins < 1:
        raise ValueError(f"Expected at least one bin. Received: n_bins={n_bins}.")
