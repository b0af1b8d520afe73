"""How good learners are, how honest, and how much they differ."""

from typing import Any

import numpy as np

from keras_micronets.selection.validation import as_labels, check_probabilities

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
    p, labels = _checked(probabilities, y)
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
    p, labels = _checked(probabilities, y)
    right = p[..., np.arange(len(labels)), labels]
    return np.clip(right.astype(np.float64), EPSILON, 1.0)


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
    p, labels = _checked(probabilities, y)
    if p.ndim != 2:
        raise ValueError(
            "Expected probabilities of shape (samples, classes), one predictor. "
            f"Received: shape {p.shape}. Call it once for each learner."
        )
    if n_bins < 1:
        raise ValueError(f"Expected at least one bin. Received: n_bins={n_bins}.")
    confidence = p.max(axis=1).astype(np.float64)
    gap = (p.argmax(axis=1) == labels) - confidence
    inner_edges = np.linspace(0, 1, n_bins + 1)[1:-1]
    bins = np.digitize(confidence, inner_edges, right=True)
    return np.abs(np.bincount(bins, weights=gap)).sum() / len(labels)


def disagreement(probabilities: Any) -> np.ndarray:
    """Share of samples on which two learners predict different classes.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`.

    Returns:
        Symmetric array of shape `(learners, learners)`, values in `[0, 1]`, zeros on
        the diagonal.

    Example:

    ```python
    disagreement([[[0.9, 0.1]], [[0.2, 0.8]]])  # array([[0., 1.], [1., 0.]])
    ```
    """
    predicted = check_probabilities(probabilities).argmax(axis=-1)
    return np.stack([(predicted != row).mean(axis=1) for row in predicted])


def _checked(probabilities: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    p = np.asarray(probabilities)
    p = check_probabilities(p[None])[0] if p.ndim == 2 else check_probabilities(p)
    return p, as_labels(y, p.shape[-1], p.shape[-2])
