"""Metrics of class probabilities: accuracy, likelihood, calibration and uncertainty.

Probabilities are checked as by `check_probabilities`, labels as by `as_labels`: all
metrics raise a `ValueError` for invalid data. Where samples tie, their order changes
nothing.
"""

from typing import Any

import numpy as np
from scipy.special import entr
from sklearn.metrics import roc_auc_score

from keras_micronets.edge.combine import EPSILON
from keras_micronets.selection.validation import (
    as_labels,
    check_choice,
    check_probabilities,
    check_sample_weight,
    in_blocks,
)

__all__ = [
    "accuracy",
    "adaptive_calibration_error",
    "area_under_risk_coverage",
    "brier_score",
    "expected_calibration_error",
    "likelihoods",
    "negative_log_likelihood",
    "ood_auroc",
]


def accuracy(probabilities: Any, y: Any, *, sample_weight: Any = None) -> np.ndarray:
    """Return the share of samples whose most probable class is the right one.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`, or
            `(samples, classes)` for one predictor.
        y: Labels; see `as_labels`.
        sample_weight: Non-negative numbers of shape `(samples,)`, the weight of each
            sample in the mean. Defaults to `None`, equal weights.

    Returns:
        Array of shape `(learners,)`, values in `[0, 1]`; a scalar for one predictor.

    Example:

    ```python
    accuracy([[0.9, 0.1], [0.8, 0.2]], [0, 1])  # 0.5
    ```
    """
    p, labels = _checked(probabilities, y)
    return _mean(p.argmax(axis=-1) == labels, sample_weight)


def negative_log_likelihood(
    probabilities: Any, y: Any, *, sample_weight: Any = None
) -> np.ndarray:
    """Return the mean of `-log(probability of the right class)`, in nats.

    This is Keras's sparse categorical cross-entropy, and scikit-learn's `log_loss`,
    of all learners at once. Probabilities are clipped at `1e-7`.

    Args:
        probabilities, y, sample_weight: See `accuracy`.

    Returns:
        Array of shape `(learners,)`; a scalar for one predictor. Lower is better.

    Example:

    ```python
    negative_log_likelihood([[0.5, 0.5], [0.5, 0.5]], [0, 1])  # 0.693...
    ```
    """
    return _mean(-np.log(likelihoods(probabilities, y)), sample_weight)


def likelihoods(probabilities: Any, y: Any) -> np.ndarray:
    """Return the probability of the right class of each sample.

    Args:
        probabilities, y: See `accuracy`.

    Returns:
        Array of `float64`, shape `(learners, samples)` or `(samples,)`, clipped to
        `[1e-7, 1]` so that its logarithm is finite.
    """
    p, labels = _checked(probabilities, y)
    right = p[..., np.arange(len(labels)), labels]
    return np.clip(right.astype(np.float64), EPSILON, 1.0)


def brier_score(probabilities: Any, y: Any, *, sample_weight: Any = None) -> np.ndarray:
    """Return the mean squared distance of the probabilities from the one-hot labels.

    Squares are summed over the classes and averaged over the samples, as by Brier:
    from 0, certain and right, to 2, certain and wrong. For two classes this is twice
    the score of one column, which is also called the Brier score.

    Args:
        probabilities, y, sample_weight: See `accuracy`.

    Returns:
        Array of shape `(learners,)`, values in `[0, 2]`; a scalar for one predictor.
        Lower is better.

    Example:

    ```python
    brier_score([[0.9, 0.1], [0.8, 0.2]], [0, 1])  # (0.02 + 1.28) / 2 = 0.65
    ```

    Reference: Brier, "Verification of Forecasts Expressed in Terms of Probability",
    Monthly Weather Review, 1950.
    """
    p, labels = _checked(probabilities, y)
    pool = p[None] if p.ndim == 2 else p
    scores = np.empty(len(pool))
    for part, block in in_blocks(pool):
        gaps = block.astype(np.float64)
        gaps[:, np.arange(len(labels)), labels] -= 1
        scores[part] = _mean(np.einsum("lsc,lsc->ls", gaps, gaps), sample_weight)
    return scores[0] if p.ndim == 2 else scores


def expected_calibration_error(
    probabilities: Any, y: Any, *, n_bins: int = 15
) -> np.floating:
    """Return the mean gap between the confidence of one predictor and its accuracy.

    Samples are put into bins of equal width by the probability of the predicted
    class; the gaps of the bins are averaged, weighted by the samples in them.

    Args:
        probabilities: Array of shape `(samples, classes)`.
        y: Labels; see `as_labels`.
        n_bins: Integer, the number of bins over `(0, 1]`. Defaults to `15`.

    Returns:
        Float in `[0, 1]`. Lower is better.

    Example:

    ```python
    expected_calibration_error([[0.8, 0.2], [0.8, 0.2]], [0, 1])  # 0.3
    ```

    Reference: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """
    p, labels = checked_predictor(probabilities, y)
    bins, confidence = confidence_bins(p, n_bins)
    gap = (p.argmax(axis=1) == labels) - confidence
    return np.abs(np.bincount(bins, weights=gap)).sum() / len(labels)


def adaptive_calibration_error(
    probabilities: Any, y: Any, *, n_bins: int = 15, of: str = "all"
) -> np.floating:
    """Return the mean gap of probabilities and frequencies, in bins of equal counts.

    For one class at a time, samples are sorted by its probability and split into bins
    whose sizes differ by at most one. The gap of a bin is the absolute difference of
    the mean probability and the share of samples of this class. Gaps are averaged over
    the bins, weighted by the samples in them, then over the classes. Samples of equal
    probability each count as their common share of this class.

    Args:
        probabilities: Array of shape `(samples, classes)`.
        y: Labels; see `as_labels`.
        n_bins: Integer, the number of bins, at most one per sample. Defaults to `15`.
        of: `"all"`, every class, as in the reference, without a threshold, or
            `"predicted"`, the predicted class alone: `expected_calibration_error`
            with bins of equal counts. Defaults to `"all"`.

    Returns:
        Float in `[0, 1]`. Lower is better. With `of="all"` and many classes it is
        always small, as most probabilities are.

    Example:

    ```python
    p = [[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.4, 0.6]]
    adaptive_calibration_error(p, [0, 0, 1, 1], n_bins=2)  # (0.15 + 0.5) / 2 = 0.325
    ```

    Reference: Nixon et al., "Measuring Calibration in Deep Learning", CVPR Workshops
    2019.
    """
    check_choice("of", of, ("all", "predicted"))
    _check_bins(n_bins)
    p, labels = checked_predictor(probabilities, y)
    if of == "predicted":
        return _adaptive_gap(p.max(axis=1), p.argmax(axis=1) == labels, n_bins)
    gaps = [_adaptive_gap(column, labels == k, n_bins) for k, column in enumerate(p.T)]
    return np.mean(gaps)


def area_under_risk_coverage(
    probabilities: Any, y: Any, *, confidence: Any = None
) -> np.floating:
    """Return the mean error rate of the most confident samples, over all coverages.

    Samples are sorted by confidence; the area is the mean of the error rates of the
    first sample, the first two, and so on to all. It is low if errors are few and have
    low confidence. Where samples tie, it is the mean over all their orders.

    Args:
        probabilities: Array of shape `(samples, classes)`.
        y: Labels; see `as_labels`.
        confidence: Numbers of shape `(samples,)`, higher for more confident. Defaults
            to `None`: the probability of the predicted class.

    Returns:
        Float in `[0, 1]`. Zero if and only if nothing is wrong.

    Example:

    ```python
    p = [[0.9, 0.1], [0.8, 0.2], [0.4, 0.6]]
    area_under_risk_coverage(p, [0, 1, 1])  # (0 + 1 / 2 + 1 / 3) / 3 = 0.277...
    ```

    Reference: Geifman, Uziel & El-Yaniv, "Bias-Reduced Uncertainty Estimation for
    Deep Neural Classifiers", ICLR 2019.
    """
    p, labels = checked_predictor(probabilities, y)
    wrong = p.argmax(axis=1) != labels
    if confidence is None:
        confidence = p.max(axis=1)
    confidence = _check_confidence(confidence, len(p))
    errors = _mean_of_ties(confidence, wrong)[np.argsort(-confidence)]
    return (np.cumsum(errors) / np.arange(1, len(p) + 1)).mean()


def ood_auroc(
    probabilities_in: Any, probabilities_out: Any, *, score: str = "max_probability"
) -> float:
    """Return how well confidence separates samples in and out of the distribution.

    This is the area under the receiver operating characteristic of the detection of
    out-of-distribution samples: the probability that one of them gets a lower
    confidence than a sample in the distribution. Ties count one half.

    Args:
        probabilities_in: Array of shape `(samples, classes)`, predicted for samples of
            the distribution that the predictor was trained on.
        probabilities_out: Array of shape `(other samples, classes)`, predicted for
            samples of another distribution.
        score: Measure of confidence: `"max_probability"`, the probability of the
            predicted class, or `"entropy"`, the negative entropy of all probabilities.
            Defaults to `"max_probability"`.

    Returns:
        Float in `[0, 1]`: 1 if all samples are separated, 0.5 by chance.

    Example:

    ```python
    ood_auroc([[0.9, 0.1], [0.2, 0.8]], [[0.6, 0.4], [0.1, 0.9]])  # 0.625
    ```

    Reference: Hendrycks & Gimpel, "A Baseline for Detecting Misclassified and
    Out-of-Distribution Examples in Neural Networks", ICLR 2017.
    """
    check_choice("score", score, _UNCERTAINTIES)
    inside, outside = (
        _one_predictor(probabilities_in),
        _one_predictor(probabilities_out),
    )
    if inside.shape[1] != outside.shape[1]:
        raise ValueError(
            "Expected the same classes in and out of the distribution. Received: "
            f"{inside.shape[1]} classes in it, {outside.shape[1]} out of it."
        )
    uncertainty = np.concatenate([_UNCERTAINTIES[score](p) for p in (inside, outside)])
    return float(roc_auc_score(np.arange(len(uncertainty)) >= len(inside), uncertainty))


def one_or_many(probabilities: Any) -> np.ndarray:
    """Check probabilities of shape `([learners,] samples, classes)`."""
    p = np.asarray(probabilities)
    return check_probabilities(p[None])[0] if p.ndim == 2 else check_probabilities(p)


def confidence_bins(p: np.ndarray, n_bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Return each sample's bin of equal width, and its confidence."""
    _check_bins(n_bins)
    confidence = p.max(axis=1).astype(np.float64)
    inner_edges = np.linspace(0, 1, n_bins + 1)[1:-1]
    return np.digitize(confidence, inner_edges, right=True), confidence


def _checked(probabilities: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    p = one_or_many(probabilities)
    return p, as_labels(y, p.shape[-1], p.shape[-2])


def _mean(values: np.ndarray, sample_weight: Any) -> np.ndarray:
    """Return the weighted mean over the samples of values `([learners,] samples)`."""
    weights = check_sample_weight(sample_weight, values.shape[-1])
    return np.asarray(np.average(values, axis=-1, weights=weights))[()]


def _one_predictor(probabilities: Any) -> np.ndarray:
    p = one_or_many(probabilities)
    if p.ndim != 2:
        raise ValueError(
            "Expected probabilities of shape (samples, classes), one predictor. "
            f"Received: shape {p.shape}. Call it once for each learner."
        )
    return p.astype(np.float64)


def checked_predictor(probabilities: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Check probabilities `(samples, classes)`, returned as `float64`, and labels."""
    p = _one_predictor(probabilities)
    return p, as_labels(y, *p.shape[::-1])


def _check_bins(n_bins: int) -> None:
    if n_bins < 1:
        raise ValueError(f"Expected at least one bin. Received: n_bins={n_bins}.")


def _check_confidence(confidence: Any, n_samples: int) -> np.ndarray:
    values = np.asarray(confidence, np.float64)
    if values.shape != (n_samples,) or np.isnan(values).any():
        raise ValueError(
            f"Expected a confidence of shape ({n_samples},), one for each sample. "
            f"Received: shape {values.shape}, {np.isnan(values).sum()} of them NaN."
        )
    return values


def _adaptive_gap(p: np.ndarray, is_class: np.ndarray, n_bins: int) -> np.floating:
    gaps = (_mean_of_ties(p, is_class) - p)[np.argsort(p)]
    n_bins = min(n_bins, len(p))
    starts = np.arange(n_bins) * len(p) // n_bins
    return np.abs(np.add.reduceat(gaps, starts)).sum() / len(p)


def _mean_of_ties(keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Replace the values of samples with equal keys by their mean.

    A sum over samples sorted by key then does not depend on the order of ties: it is
    the mean over all their orders.
    """
    _, group = np.unique(keys, return_inverse=True)
    return (np.bincount(group, weights=values) / np.bincount(group))[group]


def _entropy(p: np.ndarray) -> np.ndarray:
    # Sorted, or rows of the same numbers would differ by the rounding of their sum.
    return entr(np.sort(p, axis=1)).sum(axis=1)


_UNCERTAINTIES = {"max_probability": lambda p: -p.max(axis=1), "entropy": _entropy}


def standard_error(values: np.ndarray) -> np.ndarray:
    """Return the standard error of the mean over the last axis."""
    return values.std(axis=-1, ddof=1) / np.sqrt(values.shape[-1])
