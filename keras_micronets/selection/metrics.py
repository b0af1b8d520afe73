"""What the measures take: many learners or one predictor, and ties."""

from typing import Any

import numpy as np
from scipy.special import entr
from sklearn.metrics import roc_auc_score

from keras_micronets.selection.validation import (
    as_labels,
    check_probabilities,
    in_blocks,
)


def one_or_many(probabilities: Any) -> np.ndarray:
    """Check probabilities of shape `([learners,] samples, classes)`."""
    p = np.asarray(probabilities)
    return check_probabilities(p[None])[0] if p.ndim == 2 else check_probabilities(p)


def checked(probabilities: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Check probabilities as `one_or_many`, and labels that fit them."""
    p = one_or_many(probabilities)
    return p, as_labels(y, p.shape[-1], p.shape[-2])


def one_predictor(probabilities: Any) -> np.ndarray:
    """Check probabilities of shape `(samples, classes)`; return them as `float64`."""
    p = one_or_many(probabilities)
    if p.ndim != 2:
        raise ValueError(
            "Expected probabilities of shape (samples, classes), one predictor. "
            f"Received: shape {p.shape}. Call it once for each learner."
        )
    return p.astype(np.float64)


def mean_of_ties(keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Give all samples of equal keys the mean of their values.

    So whatever is made of values in the order of their keys does not depend on how
    ties were ordered; what is linear in the values becomes its mean over all the
    orders there are.

    Args:
        keys: Array of shape `(samples,)`.
        values: Numbers of shape `(samples,)`.

    Returns:
        Float array of shape `(samples,)`.
    """
    _, group = np.unique(keys, return_inverse=True)
    return (np.bincount(group, weights=values) / np.bincount(group))[group]


#: Probabilities are clipped here before the logarithm, as Keras does.
EPSILON = 1e-7


def accuracy(probabilities: Any, y: Any) -> np.ndarray:
    """Share of samples whose most probable class is the right one.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`, or
            `(samples, classes)` for one predictor.
        y: Labels, sparse or one-hot; see `as_labels`.

    Returns:
        Array of shape `(learners,)`, values in `[0, 1]`; a scalar for one predictor.

    Example:

    ```python
    accuracy([[0.9, 0.1], [0.8, 0.2]], [0, 1])  # 0.5
    ```
    """
    p, labels = checked(probabilities, y)
    return (p.argmax(axis=-1) == labels).mean(axis=-1)


def negative_log_likelihood(probabilities: Any, y: Any) -> np.ndarray:
    """Mean of `-log(probability of the right class)`, in nats.

    This is Keras's sparse categorical cross-entropy, and scikit-learn's `log_loss`,
    of all learners at once. Probabilities are clipped at `1e-7`.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`, or
            `(samples, classes)` for one predictor.
        y: Labels, sparse or one-hot; see `as_labels`.

    Returns:
        Array of shape `(learners,)`; a scalar for one predictor. Lower is better.

    Example:

    ```python
    negative_log_likelihood([[0.5, 0.5], [0.5, 0.5]], [0, 1])  # 0.693...
    ```
    """
    return -np.log(likelihoods(probabilities, y)).mean(axis=-1)


def likelihoods(probabilities: Any, y: Any) -> np.ndarray:
    """Pick the probability of the right class of each sample.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`, or
            `(samples, classes)` for one predictor.
        y: Labels, sparse or one-hot; see `as_labels`.

    Returns:
        Array of `float64`, shape `(learners, samples)` or `(samples,)`, clipped to
        `[1e-7, 1]` so that its logarithm is finite.
    """
    p, labels = checked(probabilities, y)
    right = p[..., np.arange(len(labels)), labels]
    return np.clip(right.astype(np.float64), EPSILON, 1.0)


def brier_score(probabilities: Any, y: Any) -> np.ndarray:
    """Mean squared distance of the probabilities from the right answer.

    Squares are summed over the classes and averaged over the samples, as Brier did:
    from 0, certain and right, to 2, certain and wrong. For two classes this is twice
    what many call the Brier score, the square of one of the two columns.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`, or
            `(samples, classes)` for one predictor.
        y: Labels, sparse or one-hot; see `as_labels`.

    Returns:
        Array of shape `(learners,)`, values in `[0, 2]`; a scalar for one predictor.
        Lower is better.

    Raises:
        ValueError: If data is bad.

    Example:

    ```python
    brier_score([[0.9, 0.1], [0.8, 0.2]], [0, 1])  # (0.02 + 1.28) / 2 = 0.65
    ```

    Reference: Brier, "Verification of Forecasts Expressed in Terms of Probability",
    Monthly Weather Review, 1950.
    """
    p, labels = checked(probabilities, y)
    pool = p[None] if p.ndim == 2 else p
    scores = np.empty(len(pool))
    for part, block in in_blocks(pool):
        gaps = block.astype(np.float64)
        gaps[:, np.arange(len(labels)), labels] -= 1
        scores[part] = np.einsum("lsc,lsc->l", gaps, gaps) / len(labels)
    return scores[0] if p.ndim == 2 else scores


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


def area_under_risk_coverage(
    probabilities: Any, y: Any, *, confidence: Any = None
) -> np.floating:
    """Mean share of errors among the surest samples, over all numbers of these.

    Of the samples sorted by confidence, the first, the first two, and so on to all of
    them are kept; the area is the mean of the error rates of these. Low if errors
    are few, and if they come last. Where samples tie, it is the mean over all their
    orders, so that the order they come in changes nothing.

    Args:
        probabilities: Array of shape `(samples, classes)`: one predictor.
        y: Labels, sparse or one-hot; see `as_labels`.
        confidence: Numbers of shape `(samples,)`, the higher the surer. Defaults to
            `None`: the probability of the predicted class.

    Returns:
        Float in `[0, 1]`. Zero if and only if nothing is wrong.

    Raises:
        ValueError: If several learners are given, `confidence` is not one number a
            sample, or data is bad.

    Example:

    ```python
    p = [[0.9, 0.1], [0.8, 0.2], [0.4, 0.6]]
    area_under_risk_coverage(p, [0, 1, 1])  # (0 + 1 / 2 + 1 / 3) / 3 = 0.277...
    ```

    Reference: Geifman, Uziel & El-Yaniv, "Bias-Reduced Uncertainty Estimation for
    Deep Neural Classifiers", ICLR 2019.
    """
    p = one_predictor(probabilities)
    wrong = p.argmax(axis=1) != as_labels(y, *p.shape[::-1])
    surest = p.max(axis=1) if confidence is None else _numbers(confidence, len(p))
    errors = mean_of_ties(surest, wrong)[np.argsort(-surest)]
    return (np.cumsum(errors) / np.arange(1, len(p) + 1)).mean()


def ood_auroc(
    probabilities_in: Any, probabilities_out: Any, *, score: str = "max_probability"
) -> float:
    """Probability that a foreign sample makes a predictor less sure than its own does.

    The area under the receiver operating characteristic of the detection of samples
    out of the distribution that was trained on. Equally sure counts one half.

    Args:
        probabilities_in: Array of shape `(samples, classes)`: what one predictor makes
            of samples of its distribution.
        probabilities_out: Array of shape `(other samples, classes)`: what it makes of
            foreign ones.
        score: How sure it is: `"max_probability"`, the probability of the predicted
            class, or `"entropy"`, that of all probabilities, the lower the surer.
            Defaults to `"max_probability"`.

    Returns:
        Float in `[0, 1]`: 1 if every foreign sample can be told, 0.5 by chance.

    Raises:
        ValueError: If several learners are given, the numbers of classes differ,
            `score` is unknown, or data is bad.

    Example:

    ```python
    ood_auroc([[0.9, 0.1], [0.2, 0.8]], [[0.6, 0.4], [0.1, 0.9]])  # 0.625
    ```

    Reference: Hendrycks & Gimpel, "A Baseline for Detecting Misclassified and
    Out-of-Distribution Examples in Neural Networks", ICLR 2017.
    """
    if score not in _DOUBTS:
        raise ValueError(
            f"Expected score='max_probability' or score='entropy'. Received: {score=}."
        )
    own, foreign = one_predictor(probabilities_in), one_predictor(probabilities_out)
    if own.shape[1] != foreign.shape[1]:
        raise ValueError(
            "Expected the same classes in and out of the distribution. Received: "
            f"{own.shape[1]} classes in it, {foreign.shape[1]} out of it."
        )
    doubts = np.concatenate([_DOUBTS[score](own), _DOUBTS[score](foreign)])
    return float(roc_auc_score(np.arange(len(doubts)) >= len(own), doubts))


def _entropy(p: np.ndarray) -> np.ndarray:
    # Sorted, or rows of the same numbers would differ by the rounding of their sum.
    return entr(np.sort(p, axis=1)).sum(axis=1)


def _numbers(confidence: Any, n_samples: int) -> np.ndarray:
    numbers = np.asarray(confidence, np.float64)
    if numbers.shape != (n_samples,) or np.isnan(numbers).any():
        raise ValueError(
            f"Expected a confidence of shape ({n_samples},), one number a sample. "
            f"Received: shape {numbers.shape}, {np.isnan(numbers).sum()} of them NaN."
        )
    return numbers


_DOUBTS = {"max_probability": lambda p: -p.max(axis=1), "entropy": _entropy}
