"""A flat map of learners: those that predict alike lie close together."""

from typing import Any

import numpy as np
from sklearn.metrics.pairwise import euclidean_distances

from keras_micronets.selection.validation import check_probabilities


def prediction_distances(probabilities: Any) -> np.ndarray:
    """Measure how far apart the predicted probabilities of learners are.

    The distance of two learners is the root mean square, over samples, of the
    Euclidean distance of their probabilities: 0 if they are equal everywhere, 1.41
    if both are certain and never agree.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`.

    Returns:
        Symmetric float array of shape `(learners, learners)`.

    Example:

    ```python
    prediction_distances([[[1.0, 0.0]], [[0.0, 1.0]]])  # array([[0, 1.41], [1.41, 0]])
    ```
    """
    p = check_probabilities(probabilities)
    distances = euclidean_distances(p.reshape(len(p), -1)).astype(np.float64)
    return distances / np.sqrt(p.shape[1])


def prediction_map(distances: Any, *, n_iterations: int = 100) -> np.ndarray:
    """Place learners on a plane so that their distances show as well as they can.

    Multidimensional scaling: principal coordinates, then stress majorisation. The
    same distances always give the same map.

    Args:
        distances: Symmetric array of shape `(learners, learners)`; see
            `prediction_distances`.
        n_iterations: Integer. Steps of the majorisation. Defaults to `100`.

    Returns:
        Float array of shape `(learners, 2)`, centred on zero.

    Example:

    ```python
    x, y = prediction_map(prediction_distances(probabilities)).T
    ```

    References: Torgerson, "Multidimensional Scaling: I", Psychometrika, 1952.
    De Leeuw, "Applications of Convex Analysis to Multidimensional Scaling", 1977.
    """
    distances = np.asarray(distances, np.float64)
    positions = _principal_coordinates(distances)
    for _ in range(n_iterations):
        shown = np.hypot(*(positions.T[:, :, None] - positions.T[:, None, :]))
        ratio = np.divide(distances, shown, out=np.zeros_like(shown), where=shown > 0)
        pull = ratio.sum(axis=1, keepdims=True) * positions - ratio @ positions
        positions = pull / len(positions)
    return positions - positions.mean(axis=0)


def _principal_coordinates(distances: np.ndarray) -> np.ndarray:
    squares = distances**2
    means = squares.mean(axis=0)
    variances, axes = np.linalg.eigh(
        (means + means[:, None] - squares - means.mean()) / 2
    )
    coordinates = (axes * np.sqrt(np.maximum(variances, 0)))[:, ::-1][:, :2]
    # An eigenvector's sign is arbitrary: make its largest entry positive.
    largest = np.abs(coordinates).argmax(axis=0)
    signs = np.where(coordinates[largest, np.arange(len(largest))] < 0, -1, 1)
    return np.pad(coordinates * signs, ((0, 0), (0, 2 - len(signs))))
