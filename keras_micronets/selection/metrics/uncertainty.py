"""Whether a predictor knows when it is wrong, or out of its depth."""

from typing import Any

import numpy as np
from scipy.special import entr
from sklearn.metrics import roc_auc_score

from keras_micronets.selection.metrics.inputs import mean_of_ties, one_predictor
from keras_micronets.selection.validation import as_labels


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
