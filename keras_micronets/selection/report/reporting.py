"""Make a `SelectionReport` from predictions and a `Selection`."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_micronets.selection.candidates import Candidates
from keras_micronets.selection.metrics import (
    accuracy,
    expected_calibration_error,
    negative_log_likelihood,
)
from keras_micronets.selection.report.mapping import (
    prediction_distances,
    prediction_map,
)
from keras_micronets.selection.report.reasons import reasons
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
