"""Make a `SelectionReport`: scores, reasons, and a map of the learners."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.metrics.pairwise import euclidean_distances

from keras_micronets.edge.tasks import CLASS_TASKS, SpreadScale, to_columns
from keras_micronets.selection.candidates import Candidates
from keras_micronets.selection.diversity import disagreement
from keras_micronets.selection.metrics import (
    accuracy,
    expected_calibration_error,
    negative_log_likelihood,
)
from keras_micronets.selection.report.report import SCORES, LearnerRow, SelectionReport
from keras_micronets.selection.selection import Selection
from keras_micronets.selection.targets import Targets, check_data
from keras_micronets.selection.temperature import apply_temperature
from keras_micronets.selection.validation import check_probabilities

__all__ = ["prediction_distances", "prediction_map", "selection_report"]

_MAX_ON_MAP = 300
# What a kept learner is among its cluster, for representatives but the most accurate.
_KEPT_AS = {"loss": "lowest loss", "medoid": "nearest", "farthest": "farthest"}


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
    temperature: float = 1.0,
    spread_scale: SpreadScale | None = None,
) -> SelectionReport:
    """Report which learners were kept, why, and the scores of the ensemble.

    Args:
        probabilities: Array of shape `(learners, samples, classes)` that the selection
            was made on.
        y: Labels, sparse or one-hot; see `as_labels`.
        selection: The `Selection`.
        names: Sequence of strings, one for each learner.
        sparsity: Sequence of floats in `[0, 1]`, one for each learner; `None` where
            unknown. Defaults to `None`, all unknown.
        n_bytes: Sequence of integers, the size of each learner's file in bytes;
            `None` where unknown. Defaults to `None`.
        gzip_bytes: The same after gzip. Defaults to `None`.
        milliseconds: Sequence of floats, each learner's time for one sample; `None`
            where unknown. Defaults to `None`.
        ensemble_probabilities: Array of shape `(samples, classes)`, predicted by the
            ensemble. Defaults to `None`: the mean weighted as in `selection`.
        temperature: Float, the temperature to apply to the ensemble's probabilities.
            Its scores are reported with and without it. Defaults to `1.0`, none.
        spread_scale: The scale of the members' spread, see `choose_spread_scale`, which
            is described. Defaults to `None`.

    Returns:
        A `SelectionReport`. Of more than 300 learners, the map shows the kept ones and
        a fixed sample of the others.

    Raises:
        ValueError: If the data is invalid or a sequence has another length than there
            are learners.

    Example:

    ```python
    selection = kmn.selection.cluster(probabilities, y, n_members=4, random_state=0)
    names = [f"learner-{i}" for i in range(len(probabilities))]
    print(selection_report(probabilities, y, selection, names=names))
    ```
    """
    p, targets = check_data(probabilities, y, names)
    candidates = Candidates(p, targets)
    _check_length("selection.labels", selection.labels, len(p))
    _check_length("names", names, len(p))
    columns = {
        "sparsity": _column("sparsity", sparsity, float, len(p)),
        "n_bytes": _column("n_bytes", n_bytes, int, len(p)),
        "gzip_bytes": _column("gzip_bytes", gzip_bytes, int, len(p)),
        "milliseconds": _column("milliseconds", milliseconds, float, len(p)),
    }
    if ensemble_probabilities is None:
        ensemble_probabilities = selection.combined(p)
    kept = np.isin(np.arange(len(p)), selection.indices)
    scaled, before = one_predictor(ensemble_probabilities, targets), None
    if temperature != 1:
        before = compute_metrics(scaled, targets)
        scaled = apply_temperature(scaled, temperature)
    totals = {key: _total(columns[key], kept) for key in columns if key != "sparsity"}
    return SelectionReport(
        rows=_rows(p, candidates, selection, [str(name) for name in names], columns),
        method=selection.method,
        representative=selection.representative,
        n_samples=len(targets),
        disagreement=_mean_disagreement(candidates),
        disagreement_kept=_mean_disagreement(
            candidates, np.flatnonzero(kept[candidates.order]).tolist()
        ),
        ensemble={**compute_metrics(scaled, targets), **totals},
        choice="\n\n".join(
            str(x) for x in (selection.size, selection.choice) if x is not None
        )
        or None,
        temperature=float(temperature),
        uncalibrated=before,
        spread_scale=spread_scale,
    )


def one_predictor(predictions: Any, targets: Targets) -> np.ndarray:
    """Return the predictions of one predictor in rows, as `compute_metrics` takes them.

    Args:
        predictions: Array of shape `(samples, *outputs)`.
        targets: The checked `Targets`.
    """
    p, _ = targets.check(np.asarray(predictions)[None])
    return targets.rows(p[0])[0] if targets.has_classes else p[0]


def compute_metrics(p: np.ndarray, targets: Targets) -> dict[str, float]:
    """Return the scores of one predictor, `p` as `one_predictor` returns it."""
    if not targets.has_classes:
        return {"r2": targets.score(p), **_errors(p, targets)}
    labels = targets.y.reshape(-1).astype(np.int64)
    weights = targets.cell_weight(len(labels))
    return {
        "accuracy": float(accuracy(p, labels, sample_weight=weights)),
        "negative_log_likelihood": float(
            negative_log_likelihood(p, labels, sample_weight=weights)
        ),
        "expected_calibration_error": float(expected_calibration_error(p, labels)),
    }


def _errors(p: np.ndarray, targets: Targets) -> dict[str, float]:
    errors = (p - targets.y).reshape(-1)
    return {
        "root_mean_squared_error": float(targets.average(np.square(errors)) ** 0.5),
        "mean_absolute_error": float(targets.average(np.abs(errors))),
    }


def prediction_distances(probabilities: Any) -> np.ndarray:
    """Return the distances between the predicted probabilities of learners.

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
    return distances_of(check_probabilities(probabilities))


def distances_of(p: np.ndarray) -> np.ndarray:
    """Return the distances of predictions that are checked, see above."""
    distances = euclidean_distances(p.reshape(len(p), -1)).astype(np.float64)
    return distances / np.sqrt(p.shape[1])


def difference(predictions: np.ndarray, task: str, *, scale: Any = None) -> np.ndarray:
    """Return how much learners differ in their predictions, `(learners, learners)`.

    It is the share of predicted classes or labels that differ; for numbers the root
    mean square difference of the predictions.

    Args:
        predictions: Array of shape `(learners, samples, *outputs)`.
        task: One of `edge.TASKS`.
        scale: The unit of numbers, one for all or one for each output. Defaults to
            `None`: the standard deviation of all predictions.
    """
    n_learners, n_samples = predictions.shape[:2]
    if task == "multilabel":
        predictions = to_columns(predictions).reshape(n_learners, -1, 2)
    if task in CLASS_TASKS:
        return disagreement(predictions)
    numbers = predictions.reshape(n_learners, n_samples, -1)
    if scale is None:
        scale = max(float(numbers.std()), np.finfo(np.float32).tiny)
    return distances_of(numbers / scale) / np.sqrt(numbers.shape[2])


def prediction_map(distances: Any, *, n_iterations: int = 100) -> np.ndarray:
    """Place learners on a plane so that it shows their distances as well as possible.

    This is multidimensional scaling: principal coordinates, then stress majorisation.
    It is deterministic.

    Args:
        distances: Symmetric array of shape `(learners, learners)`; see
            `prediction_distances`.
        n_iterations: Integer, the steps of the majorisation. Defaults to `100`.

    Returns:
        Float array of shape `(learners, 2)`, centred on zero.

    Example:

    ```python
    positions = prediction_map(prediction_distances(probabilities))
    ```

    References: Torgerson, "Multidimensional Scaling: I", Psychometrika, 1952.
    De Leeuw, "Applications of Convex Analysis to Multidimensional Scaling", 1977.
    """
    distances = np.asarray(distances, np.float64)
    positions = _principal_coordinates(distances)
    for _ in range(n_iterations):
        shown = np.hypot(*(positions.T[:, :, None] - positions.T[:, None, :]))
        ratio = np.divide(distances, shown, out=np.zeros_like(shown), where=shown > 0)
        # The Guttman transform.
        positions = ratio.sum(axis=1, keepdims=True) * positions - ratio @ positions
        positions = positions / len(positions)
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


def _rows(
    p: np.ndarray,
    candidates: Candidates,
    selection: Selection,
    names: list[str],
    columns: dict[str, list],
) -> tuple[LearnerRow, ...]:
    ranks = np.argsort(candidates.order)
    kept = set(selection.indices.tolist())
    positions = _positions(p, selection.indices, candidates.targets.scale)
    return tuple(
        LearnerRow(
            index=i,
            name=names[i],
            cluster=int(selection.labels[i]),
            kept=i in kept,
            why=_reason(selection, i, ranks, kept=i in kept),
            map_x=positions.get(i, (None, None))[0],
            map_y=positions.get(i, (None, None))[1],
            **_scores(p[i], candidates, ranks[i]),
            **{key: values[i] for key, values in columns.items()},
        )
        for i in range(len(p))
    )


def _scores(p: np.ndarray, candidates: Candidates, rank: int) -> dict[str, Any]:
    """Return the scores of a learner; `rank` is its index among the candidates."""
    targets = candidates.targets
    score, loss = float(candidates.accuracies[rank]), float(candidates.losses[rank])
    if not targets.has_classes:
        return {**dict.fromkeys(SCORES), "r2": score, **_errors(p, targets)}
    return {
        "accuracy": score,
        "negative_log_likelihood": loss,
        "expected_calibration_error": float(
            expected_calibration_error(*targets.rows(p))
        ),
    }


def _reason(
    selection: Selection, learner: int, ranks: np.ndarray, *, kept: bool
) -> str:
    """Return in a few words why a learner was kept or not."""
    labels = selection.labels
    if labels[learner] < 0:
        return "noise, kept" if kept else "noise"
    of_cluster = ranks[labels == labels[learner]]
    size = len(of_cluster)
    rank = f"rank {(of_cluster <= ranks[learner]).sum()} of {size}"
    representative = selection.representative or ""
    if selection.method == "random_k":
        return f"{'drawn' if kept else 'not drawn'}, {rank}"
    if representative == "best_cluster":
        return "best cluster" if kept else "other cluster"
    if size == 1 and representative in ("accuracy", *_KEPT_AS):
        return "alone"
    if representative in _KEPT_AS:
        word = _KEPT_AS[representative]
        return f"{word} of {size}" if kept else f"not {word}"
    return f"best of {size}" if kept and representative == "accuracy" else rank


def _positions(
    p: np.ndarray, kept: np.ndarray, scale: Any
) -> dict[int, tuple[float, float]]:
    others = np.setdiff1d(np.arange(len(p)), kept)
    others = np.random.default_rng(0).permutation(others)
    shown = np.sort(np.concatenate([kept, others])[:_MAX_ON_MAP])
    positions = prediction_map(distances_of(p[shown] / scale)).tolist()
    return {i: (x, y) for i, (x, y) in zip(shown.tolist(), positions, strict=True)}


def _column(name: str, values: Any, convert: Callable, n_learners: int) -> list:
    if values is None:
        return [None] * n_learners
    _check_length(name, values, n_learners)
    return [None if value is None else convert(value) for value in values]


def _check_length(name: str, values: Any, n_learners: int) -> None:
    if len(values) != n_learners:
        raise ValueError(
            f"Expected {name} to have {n_learners} values, one for each learner. "
            f"Received: {len(values)}."
        )


def _total(values: list[Any], kept: np.ndarray) -> Any:
    chosen = [value for value, is_kept in zip(values, kept, strict=True) if is_kept]
    return None if None in chosen else sum(chosen)


def _mean_disagreement(
    candidates: Candidates, chosen: list[int] | None = None
) -> float | None:
    """Return the mean disagreement of all pairs, of some candidates or of all."""
    if not candidates.targets.has_classes:
        return None
    votes = candidates.votes if chosen is None else candidates.votes_of(chosen)
    n_pairs = votes[0].sum() * (votes[0].sum() - 1)
    if n_pairs == 0:
        return None
    return float(1 - (votes * (votes - 1)).sum() / (n_pairs * len(votes)))
