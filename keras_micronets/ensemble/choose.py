"""Choose members among learners, and describe the learners for reports."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_micronets import selection
from keras_micronets.edge.combine import check_rule, rules_of
from keras_micronets.edge.tasks import CLASS_TASKS

__all__ = [
    "CLUSTERING",
    "DEFAULT",
    "check_combination",
    "check_temperature",
    "choose_members",
    "choose_temperature",
    "learner_columns",
]

DEFAULT = "cluster_then_forward"
#: The methods that take a clusterer and a representative.
CLUSTERING = (DEFAULT, "cluster")


def choose_members(
    ensemble: Any, predictions: np.ndarray, targets: Any, verbose: int | str
) -> selection.Selection:
    """Choose members by their predictions.

    Args:
        ensemble: An `EnsemblePruner`, whose arguments say how to choose.
        predictions: Predictions of its learners, `(learners, samples, outputs)`.
        targets: The `selection.Targets` that were checked with them.
        verbose: `"auto"` or 1 for the progress of `method="auto"`, 0 for silence.
    """
    random_state, y = ensemble.random_state, targets.argument
    if ensemble.budget is not None:
        return selection.within_budget(
            predictions,
            y,
            ensemble.budget,
            costs=_costs(ensemble.learners, ensemble.costs),
            random_state=random_state,
        )
    n_members, options = ensemble.n_members, {}
    if n_members is None and ensemble.clusterer is None:
        n_members = min(4, len(predictions)) if ensemble.method == DEFAULT else 4
    if ensemble.method in CLUSTERING:
        options["clusterer"] = ensemble.clusterer
        if ensemble.representative is not None:
            options["representative"] = ensemble.representative
    elif ensemble.method == "auto":
        options["verbose"] = 1 if verbose == "auto" else verbose
    choose = selection.as_method(ensemble.method)
    return choose(predictions, y, n_members, random_state=random_state, **options)


def _costs(learners: Any, costs: str | Sequence[float]) -> Sequence[float]:
    if not isinstance(costs, str):
        return costs
    values = [getattr(learner, costs) for learner in learners]
    if None in values:
        raise ValueError(
            f"Expected learners whose {costs} are known. Received: "
            f"{learners[values.index(None)].name!r}, whose size is unknown. Pass "
            "`costs` as numbers, one per learner."
        )
    return values


def check_temperature(temperature: Any, combination: str) -> None:
    """Raise a `ValueError` unless it is `"fit"`, `None` or a suitable number."""
    if isinstance(temperature, str) and temperature != "fit":
        raise ValueError(
            "Expected `temperature` as 'fit', a positive number or None. Received: "
            f"temperature={temperature!r}."
        )
    number = 1.0 if temperature in ("fit", None) else temperature
    check_rule("vote" if combination == "vote" else "mean", None, 1, number)


def check_combination(combination: str, temperature: Any, task: str) -> None:
    """Raise a `ValueError` unless the task can be combined so."""
    rules = rules_of(task)
    if combination not in rules:
        raise ValueError(
            f"Expected a combination out of {rules} for task={task!r}. Received: "
            f"combination={combination!r}."
        )
    if task not in CLASS_TASKS and temperature not in ("fit", None, 1):
        raise ValueError(
            f"Expected temperature='fit' or None for task={task!r}, which predicts no "
            f"probabilities. Received: temperature={temperature}."
        )


def choose_temperature(ensemble: Any, predictions: np.ndarray, targets: Any) -> float:
    """Return the temperature for combined predictions, `(samples, outputs)`.

    `ensemble` and `targets` are as for `choose_members`.
    """
    if ensemble.temperature != "fit":
        return 1.0 if ensemble.temperature is None else float(ensemble.temperature)
    if ensemble.combination == "vote" or not targets.has_classes:
        return 1.0
    return selection.choose_temperature(*targets.rows(predictions))


def learner_columns(learners: Any) -> dict[str, list]:
    """Return the columns of a report that describe learners: names and sizes."""
    rows = list(learners)
    return {
        "names": [learner.name for learner in rows],
        "sparsity": [learner.sparsity for learner in rows],
        # The size of a .keras file says nothing about the file on the device.
        "n_bytes": [None if x.is_keras else x.n_bytes for x in rows],
        "gzip_bytes": [learner.gzip_bytes for learner in rows],
    }
