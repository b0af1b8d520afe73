"""Prune2Edge's own clustering, for comparison."""

from typing import Any

import numpy as np

from keras_micronets.selection.candidates import Candidates
from keras_micronets.selection.clustering.clusterers import Clusterers
from keras_micronets.selection.clustering.geometry import Features
from keras_micronets.selection.clustering.representatives import (
    REPRESENTATIVES,
    Clustered,
)
from keras_micronets.selection.selection import Selection


def cluster_labels(
    probabilities: Any,
    y: Any,
    n_members: int = 4,
    *,
    strategy: str = "diversity_first",
    random_state: Any = None,
) -> Selection:
    """Cluster learners by the numbers of the classes that they predict.

    As the code of the authors of Prune2Edge does it: k-means in Euclidean distance on
    class labels, as if class 9 were farther from class 1 than from class 8. It is here
    for reproduction; `cluster(on="predictions")` compares the same predictions without
    taking names for numbers.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`.
        y: Labels, sparse or one-hot; see `as_labels`.
        n_members: Integer, the number of clusters. Defaults to `4`.
        strategy: `"diversity_first"`, the most accurate learner of each cluster, or
            `"accuracy_first"`, all learners of the cluster whose mean accuracy is
            highest. Defaults to `"diversity_first"`.
        random_state: As in scikit-learn, for k-means. Defaults to `None`.

    Returns:
        A `Selection` with equal weights. Where fewer learners predict different
        classes than `n_members`, there are fewer clusters.

    Raises:
        ValueError: If there are fewer learners than members, `strategy` is unknown, or
            data is bad.

    Example:

    ```python
    cluster_labels(probabilities, y, n_members=4, random_state=0).indices
    ```

    References: Alhalabi et al., "Prune2Edge", arXiv:2004.04710, and the code of its
    authors' FedNets. There the last cluster is never considered for
    `"accuracy_first"`; here it is.
    """
    if strategy not in _STRATEGIES:
        raise ValueError(
            f"Expected strategy to be one of {[*_STRATEGIES]}. Received: {strategy=}."
        )
    found = Candidates(probabilities, y, n_members)
    points = found.predictions.astype(np.float64)
    geometry = Features(points)
    n_clusters = min(n_members, len(np.unique(points, axis=0)))
    kmeans = Clusterers(None, geometry, n_clusters, random_state)
    labels = kmeans.cluster(n_clusters)
    clustered = Clustered(
        [np.flatnonzero(labels == k) for k in range(n_clusters)],
        found.accuracies,
        found.losses,
        geometry,
    )
    representative = _STRATEGIES[strategy]
    return found.select(
        REPRESENTATIVES[representative](clustered),
        labels=labels,
        method="prune2edge",
        representative=representative,
    )


_STRATEGIES = {"diversity_first": "accuracy", "accuracy_first": "best_cluster"}
