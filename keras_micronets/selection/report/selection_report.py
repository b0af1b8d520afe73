"""Make a `SelectionReport` from predictions and a `Selection`."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from sklearn.metrics.pairwise import euclidean_distances

from keras_micronets.selection.candidates import Candidates
from keras_micronets.selection.metrics import (
    accuracy,
    expected_calibration_error,
    negative_log_likelihood,
)
from keras_micronets.selection.report.report import LearnerRow, SelectionReport
from keras_micronets.selection.selection import Selection
from keras_micronets.selection.validation import check_probabilities

_MOST_ON_MAP = 300


def selection_report(
    probabilities: Any,
    y: Any,
    selection: Selection,
    *,
    names: Sequence[str],
    sparsity: Sequence[float | None] | None = None,
    n_bytes: Sequence[int | None] | None = None,
    gzip_bytes: Sequence[int | None] | None = None,
    milliseconds: Sequence[float | None] | None = None,
    ensemble_probabilities: Any = None,
) -> SelectionReport:
    """Report who was kept, why, and what it is worth.

    Args:
        probabilities: Array of shape `(learners, samples, classes)`: what the choice
            was made on.
        y: Labels, sparse or one-hot; see `as_labels`.
        selection: The `Selection` made from them.
        names: Sequence of strings, one a learner.
        sparsity: Sequence of floats in `[0, 1]`, one a learner; `None` where not
            known. Defaults to `None`, none known.
        n_bytes: Sequence of integers, the size of each learner's file in bytes;
            `None` where not known. Defaults to `None`.
        gzip_bytes: The same after gzip. Defaults to `None`.
        milliseconds: Sequence of floats, the time that each learner takes for one
            sample; `None` where not known. Defaults to `None`.
        ensemble_probabilities: Array of shape `(samples, classes)`: what the ensemble
            predicts. Defaults to `None`: the mean, weighted as in `selection`.

    Returns:
        A `SelectionReport`. Of more than 300 learners, the map shows the kept ones and
        a sample of the others, the same at every call.

    Raises:
        ValueError: If data is bad or a sequence has not one value a learner.

    Example:

    ```python
    selection = cluster(probabilities, y, n_members=4, random_state=0)
    print(selection_report(probabilities, y, selection, names=names))
    ```
    """
    p = check_probabilities(probabilities)
    found = Candidates(p, y)
    _check_length("selection.labels", selection.labels, len(p))
    _check_length("names", names, len(p))
    sizes = {
        "sparsity": _column("sparsity", sparsity, float, len(p)),
        "n_bytes": _column("n_bytes", n_bytes, int, len(p)),
        "gzip_bytes": _column("gzip_bytes", gzip_bytes, int, len(p)),
        "milliseconds": _column("milliseconds", milliseconds, float, len(p)),
    }
    if ensemble_probabilities is None:
        ensemble_probabilities = selection.combined(p)
    kept = np.isin(np.arange(len(p)), selection.indices)
    return SelectionReport(
        rows=_rows(p, found, selection, [str(name) for name in names], sizes),
        method=selection.method,
        representative=selection.representative,
        n_samples=len(found.y),
        disagreement=_mean_disagreement(found.votes),
        disagreement_kept=_mean_disagreement(
            found.votes_of(np.flatnonzero(kept[found.order]))
        ),
        ensemble={
            **measures(ensemble_probabilities, found.y),
            **{key: _total(sizes[key], kept) for key in sizes if key != "sparsity"},
        },
        choice=None if selection.choice is None else str(selection.choice),
    )


def _rows(
    p: np.ndarray,
    found: Candidates,
    selection: Selection,
    names: list[str],
    sizes: dict[str, list],
) -> tuple[LearnerRow, ...]:
    why = reasons(selection, found)
    positions = _positions(p, selection.indices)
    places = np.argsort(found.order)
    accuracies, losses = found.accuracies[places], found.losses[places]
    kept = set(selection.indices.tolist())
    return tuple(
        LearnerRow(
            index=i,
            name=names[i],
            cluster=int(selection.labels[i]),
            kept=i in kept,
            why=why[i],
            map_x=positions.get(i, (None, None))[0],
            map_y=positions.get(i, (None, None))[1],
            accuracy=float(accuracies[i]),
            negative_log_likelihood=float(losses[i]),
            expected_calibration_error=float(expected_calibration_error(p[i], found.y)),
            **{key: values[i] for key, values in sizes.items()},
        )
        for i in range(len(p))
    )


def _positions(p: np.ndarray, kept: np.ndarray) -> dict[int, tuple[float, float]]:
    others = np.setdiff1d(np.arange(len(p)), kept)
    others = np.random.default_rng(0).permutation(others)
    shown = np.sort(np.concatenate([kept, others])[:_MOST_ON_MAP])
    positions = prediction_map(prediction_distances(p[shown]))
    return dict(zip(shown.tolist(), map(tuple, positions.tolist()), strict=True))


def measures(p: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Measure one predictor; `p` is of shape `(samples, classes)`."""
    return {
        "accuracy": float(accuracy(p, y)),
        "negative_log_likelihood": float(negative_log_likelihood(p, y)),
        "expected_calibration_error": float(expected_calibration_error(p, y)),
    }


def _column(name: str, values: Any, kind: Callable, n_learners: int) -> list:
    if values is None:
        return [None] * n_learners
    _check_length(name, values, n_learners)
    return [None if value is None else kind(value) for value in values]


def _check_length(name: str, values: Any, n_learners: int) -> None:
    if len(values) != n_learners:
        raise ValueError(
            f"Expected {name} to have {n_learners} values, one a learner. "
            f"Received: {len(values)}."
        )


def _total(sizes: list[int | None], kept: np.ndarray) -> int | None:
    chosen = [size for size, is_kept in zip(sizes, kept, strict=True) if is_kept]
    return None if None in chosen else sum(chosen)


def _mean_disagreement(votes: np.ndarray) -> float | None:
    """Count the pairs of learners that agree by the votes for each class."""
    n_pairs = votes[0].sum() * (votes[0].sum() - 1)
    if n_pairs == 0:
        return None
    return float(1 - (votes * (votes - 1)).sum() / (n_pairs * len(votes)))


def reasons(selection: Selection, found: Candidates) -> list[str]:
    """Say why each learner was kept or not.

    Args:
        selection: A `Selection`.
        found: The `Candidates` that it was made from.

    Returns:
        List of strings, one a learner.
    """
    ranks = np.argsort(found.order)
    kept = np.isin(np.arange(len(ranks)), selection.indices)
    say = _SAY.get(selection.representative, _ranked)
    if selection.method == "random_k":
        say = _drawn
    return [
        say(bool(kept[i]), *_place(i, selection.labels, ranks))
        if selection.labels[i] >= 0
        else "noise"
        for i in range(len(ranks))
    ]


def _place(learner: int, labels: np.ndarray, ranks: np.ndarray) -> tuple[int, int]:
    """Give the learner's rank by accuracy in its cluster, and the cluster's size."""
    of_cluster = ranks[labels == labels[learner]]
    return int((of_cluster <= ranks[learner]).sum()), len(of_cluster)


def _most_accurate(kept: bool, place: int, size: int) -> str:
    if size == 1:
        return "alone"
    return f"best of {size}" if kept else _ranked(kept, place, size)


def _outstanding(kept_as: str, kept: bool, place: int, size: int) -> str:
    if size == 1:
        return "alone"
    return f"{kept_as} of {size}" if kept else f"not {kept_as}"


def _best_cluster(kept: bool, place: int, size: int) -> str:
    return "best cluster" if kept else "other cluster"


def _drawn(kept: bool, place: int, size: int) -> str:
    return f"{'drawn' if kept else 'not drawn'}, rank {place} of {size}"


def _ranked(kept: bool, place: int, size: int) -> str:
    return f"rank {place} of {size}"


_SAY = {
    "accuracy": _most_accurate,
    "loss": partial(_outstanding, "lowest loss"),
    "medoid": partial(_outstanding, "nearest"),
    "farthest": partial(_outstanding, "farthest"),
    "best_cluster": _best_cluster,
}


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
