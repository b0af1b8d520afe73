"""Make a `SelectionReport` from predictions and a `Selection`."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_micronets.selection.metrics import (
    accuracy,
    disagreement,
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
from keras_micronets.selection.validation import as_labels, check_probabilities


def selection_report(
    probabilities: Any,
    y: Any,
    selection: Selection,
    *,
    names: Sequence[str],
    sparsity: Sequence[float | None] | None = None,
    n_bytes: Sequence[int | None] | None = None,
    gzip_bytes: Sequence[int | None] | None = None,
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
        ensemble_probabilities: Array of shape `(samples, classes)`: what the ensemble
            predicts. Defaults to `None`: the mean, weighted as in `selection`.

    Returns:
        A `SelectionReport`.

    Raises:
        ValueError: If data is bad or a sequence has not one value a learner.

    Example:

    ```python
    selection = cluster(probabilities, y, n_members=4, random_state=0)
    print(selection_report(probabilities, y, selection, names=names))
    ```
    """
    p = check_probabilities(probabilities)
    y = as_labels(y, p.shape[2], p.shape[1])
    _check_length("selection.labels", selection.labels, len(p))
    _check_length("names", names, len(p))
    sizes = {
        "sparsity": _column("sparsity", sparsity, float, len(p)),
        "n_bytes": _column("n_bytes", n_bytes, int, len(p)),
        "gzip_bytes": _column("gzip_bytes", gzip_bytes, int, len(p)),
    }
    if ensemble_probabilities is None:
        ensemble_probabilities = np.average(
            p[selection.indices], axis=0, weights=selection.weights
        )
    kept = np.isin(np.arange(len(p)), selection.indices)
    differences = disagreement(p)
    return SelectionReport(
        rows=_rows(p, y, selection, kept, [str(name) for name in names], sizes),
        method=selection.method,
        representative=selection.representative,
        n_samples=len(y),
        disagreement=_mean_of_pairs(differences),
        disagreement_kept=_mean_of_pairs(differences[np.ix_(kept, kept)]),
        ensemble={
            **_figures(ensemble_probabilities, y),
            "n_bytes": _total(sizes["n_bytes"], kept),
            "gzip_bytes": _total(sizes["gzip_bytes"], kept),
        },
    )


def _rows(
    p: np.ndarray,
    y: np.ndarray,
    selection: Selection,
    kept: np.ndarray,
    names: list[str],
    sizes: dict[str, list],
) -> tuple[LearnerRow, ...]:
    why = reasons(selection, p, y)
    positions = prediction_map(prediction_distances(p))
    return tuple(
        LearnerRow(
            index=i,
            name=names[i],
            cluster=int(selection.labels[i]),
            kept=bool(kept[i]),
            why=why[i],
            map_x=float(positions[i, 0]),
            map_y=float(positions[i, 1]),
            **_figures(p[i], y),
            **{key: values[i] for key, values in sizes.items()},
        )
        for i in range(len(p))
    )


def _figures(p: np.ndarray, y: np.ndarray) -> dict[str, float]:
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


def _mean_of_pairs(differences: np.ndarray) -> float | None:
    n = len(differences)
    return float(differences.sum() / (n * (n - 1))) if n > 1 else None
