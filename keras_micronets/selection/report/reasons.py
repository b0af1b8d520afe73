"""Why a learner was kept or not, in a few words."""

from functools import partial

import numpy as np

from keras_micronets.selection.candidates import Candidates
from keras_micronets.selection.selection import Selection


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
