"""Choose when an ensemble may stop before all its members have run."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from keras_micronets.edge.combine import check_rule
from keras_micronets.edge.early_exit import EarlyExit, combine_partial, margin
from keras_micronets.selection.metrics import accuracy
from keras_micronets.selection.validation import as_labels, check_probabilities

__all__ = ["choose_early_exit"]

_N_THRESHOLDS = 500


def choose_early_exit(
    probabilities: Any,
    y: Any,
    *,
    combination: str = "mean",
    weights: Sequence[float] | None = None,
    temperature: float = 1.0,
    tolerance: float = 0.0,
) -> EarlyExit:
    """Choose the order of the members and the margin at which a prediction is final.

    The most accurate member runs first. The threshold is the lowest margin that, with
    all higher ones, satisfies the tolerance: at most `tolerance * (samples + 1) - 1` of
    these samples get another class than from all members, whether right or wrong, so
    changes for the better do not offset changes for the worse. The additional sample
    makes the tolerance hold on average for new samples. With fewer than
    `1 / tolerance - 1` samples, and with a tolerance of zero, no margin is sufficient,
    and only members that cannot change the class are skipped.

    Args:
        probabilities: Array of shape `(members, samples, classes)`, in the order of the
            bundle, predicted by the exported files.
        y: Labels, sparse or one-hot; see `as_labels`. Not the test data.
        combination: `"mean"`, `"logit"`, `"vote"` or `"weights"`, see `edge.combine`.
            Defaults to `"mean"`.
        weights: Floats, one for each member, for `"weights"`. Defaults to `None`.
        temperature: Float, the temperature of the combined probabilities, whose margins
            the threshold is compared with. Defaults to `1.0`.
        tolerance: Float from 0 to 1, the share of samples that may get another class;
            `0.001` costs at most a tenth of a percentage point of accuracy. Defaults to
            `0.0`.

    Returns:
        An `edge.EarlyExit`, with the share of calls that it saves on these samples.

    Raises:
        ValueError: If the data is invalid, the rule is unknown, or the tolerance is out
            of range.

    Example:

    ```python
    early_exit = choose_early_exit(probabilities, y_val, tolerance=0.1)
    early_exit.threshold, early_exit.saved
    ```

    Reference: Angelopoulos, Bates, Fisch, Lei & Schuster, "Conformal Risk Control",
    ICLR 2024.
    """
    p = check_probabilities(probabilities)
    y = as_labels(y, p.shape[2], p.shape[1])
    check_rule(combination, weights, len(p), temperature)
    if not 0 <= tolerance <= 1:
        raise ValueError(
            f"Expected a tolerance from 0 to 1. Received: tolerance={tolerance}."
        )
    exact = EarlyExit(
        None, _order(p, y, weights), tolerance=float(tolerance), samples=len(y)
    )
    rule = {"rule": combination, "weights": weights, "temperature": temperature}
    classes, margins, certain = _stages(p, exact, rule)
    samples = np.arange(len(y))
    threshold, last = None, certain.argmax(axis=0)
    for candidate in _thresholds(margins):
        stages = (certain | (margins >= candidate)).argmax(axis=0)
        n_changed = np.sum(classes[stages, samples] != classes[-1])
        if n_changed + 1 > tolerance * (len(y) + 1):
            break
        threshold, last = float(candidate), stages
    saved = 1 - (1 + last.mean()) / len(p)
    return replace(exact, threshold=threshold, saved=float(saved))


def _order(p: np.ndarray, y: np.ndarray, weights: Any) -> tuple[int, ...]:
    score = accuracy(p, y)
    if weights is not None:
        score = score - 2 * (np.asarray(weights) == 0)  # no influence: to the end
    return tuple(int(index) for index in np.argsort(-score, kind="stable"))


def _stages(
    p: np.ndarray, exact: EarlyExit, rule: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return class, margin and certainty after each member, `(members, samples)`."""
    ordered = p[list(exact.order)]
    stages = [
        combine_partial([*ordered[: n + 1]], exact, **rule) for n in range(len(p))
    ]
    combined, certain = (np.stack(parts) for parts in zip(*stages, strict=True))
    certain[-1] = True  # nothing can change after the last member
    return combined.argmax(axis=-1), margin(combined), certain


def _thresholds(margins: np.ndarray) -> np.ndarray:
    """Return the margins to try, the highest first."""
    before = margins[:-1] if len(margins) > 1 else margins
    return np.unique(np.quantile(before, np.linspace(0, 1, _N_THRESHOLDS)))[::-1]
