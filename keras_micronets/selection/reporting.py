"""Make a `SelectionReport` from predictions and a `Selection`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_micronets.selection import metrics
from keras_micronets.selection.mapping import prediction_map
from keras_micronets.selection.reasons import reasons
from keras_micronets.selection.report import LearnerRow, SelectionReport
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
        probabilities: Array of shape `(learners, samples, classes)`, what the choice
            was made on.
        y: Labels, sparse or one-hot; see `as_labels`.
        selection: A `Selection` made from them.
        names: Sequence of strings, one a learner.
        sparsity: Sequence of floats in `[0, 1]`, one a learner. Defaults to `None`,
            not known; so may single values be.
        n_bytes: Sequence of integers, the size of each learner's file in bytes.
            Defaults to `None`.
        gzip_bytes: The same for the file after gzip. Defaults to `None`.
        ensemble_probabilities: Array of shape `(samples, classes)`, what the ensemble
            predicts. Defaults to `None`, the mean weighted as in `selection`.

    Returns:
        A `SelectionReport`.

    Raises:
        ValueError: If data is bad or a sequence has not one value a learner.

    Example:

    ```python
    selection = cluster(probabilities, y, n_members=4, random_state=0)
    report = selection_report(probabilities, y, selection, names=["a", "b", ...])
    print(report)
    ```
    """
    p = check_probabilities(probabilities)
    y = as_labels(y, p.shape[2], p.shape[1])
    _check_selection(selection, len(p))
    names = _column("names", names, len(p))
    figures = _figures(p, y)
    sizes = {
        "sparsity": _column("sparsity", sparsity, len(p), float),
        "n_bytes": _column("n_bytes", n_bytes, len(p), int),
        "gzip_bytes": _column("gzip_bytes", gzip_bytes, len(p), int),
    }
    kept = np.isin(np.arange(len(p)), selection.indices)
    positions = prediction_map(p)
    columns = {
        "index": range(len(p)),
        "name": names,
        "cluster": selection.labels.tolist(),
        "kept": kept.tolist(),
        "why": reasons(selection, p, y, names),
        **figures,
        **sizes,
        "map_x": positions[:, 0].tolist(),
        "map_y": positions[:, 1].tolist(),
    }
    rows = [LearnerRow(*(columns[f][i] for f in LearnerRow._fields)) for i in columns["index"]]
    combined = ensemble_probabilities
    if combined is None:
        combined = np.tensordot(selection.weights, p[selection.indices], 1)
    ensemble = {name: values[0] for name, values in _figures([combined], y).items()}
    for key in ("n_bytes", "gzip_bytes"):
        ensemble[key] = _total([sizes[key][i] for i in selection.indices])
    differences = metrics.disagreement(p)
    return SelectionReport(
        rows=tuple(rows),
        method=selection.method,
        representative=selection.representative,
        n_samples=p.shape[1],
        disagreement=_mean_of_pairs(differences),
        disagreement_kept=_mean_of_pairs(differences[np.ix_(kept, kept)]),
        ensemble=ensemble,
    )
