"""How good learners are: by what they predict, and by how probable they think it."""

from typing import Any

import numpy as np

from keras_micronets.selection.blocks import in_blocks
from keras_micronets.selection.metrics.inputs import checked

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
