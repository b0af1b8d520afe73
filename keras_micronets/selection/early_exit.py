"""When an answer needs no more members."""

from dataclasses import replace
from typing import Any

import numpy as np

from keras_micronets.edge.combine import check_rule
from keras_micronets.edge.early_exit import EarlyExit, combine_partial, margin
from keras_micronets.selection.metrics import accuracy
from keras_micronets.selection.validation import as_labels, check_probabilities

_N_THRESHOLDS = 500


def choose_early_exit(
    probabilities: Any,
    y: Any,
    *,
    combination: str = "mean",
    weights: Any = None,
    tolerance: float = 0.0,
) -> EarlyExit:
    """Choose the order of members, and how sure an answer must be to need no more.

    The most accurate member is asked first. The threshold is the lowest margin that,
    with all higher ones, keeps to the tolerance: of the samples here, at most
    `tolerance * (samples + 1) - 1` get another class than all members together would
    give them, whether right or wrong; so what is lost is not set off against what is
    won by luck. The one sample more is what makes the tolerance hold on average for
    samples not seen here. With fewer than `1 / tolerance - 1` samples, and with a
    tolerance of zero, no margin is enough, and only members that cannot change the
    class are spared.

    Args:
        probabilities: Array of shape `(members, samples, classes)`, in the order of
            the bundle, of the very files that will run.
        y: Labels, sparse or one-hot; see `as_labels`. Not the test data.
        combination: `"mean"`, `"logit"`, `"vote"` or `"weights"`, see `edge.combine`.
            Defaults to `"mean"`.
        weights: One a member, for `"weights"`. Defaults to `None`.
        tolerance: Share of samples, from 0 to 1, that may get another class; with
            `0.001` no more than a tenth of a point of accuracy can be lost. Defaults
            to `0.0`.

    Returns:
        An `edge.EarlyExit`, with the share of calls that it saves on these samples.

    Raises:
        ValueError: If data is bad, the rule unknown or the tolerance no share.

    Example:

    ```python
    early_exit = choose_early_exit(probabilities, y_val, tolerance=0.001)
    early_exit.threshold, early_exit.saved
    ```

    Reference: Angelopoulos, Bates, Fisch, Lei & Schuster, "Conformal Risk Control",
    ICLR 2024.
    """
    p = check_probabilities(probabilities)
    y = as_labels(y, p.shape[2], p.shape[1])
    check_rule(combination, weights, len(p))
    if not 0 <= tolerance <= 1:
        raise ValueError(
            f"Expected a tolerance from 0 to 1. Received: tolerance={tolerance}."
        )
    exact = EarlyExit(
        None, _order(p, y, weights), tolerance=float(tolerance), samples=len(y)
    )
    classes, margins, certain = _stages(p, exact, combination, weights)
    places = np.arange(len(y))
    threshold, asked = None, certain.argmax(axis=0)
    for lower in _thresholds(margins):
        last = (certain | (margins >= lower)).argmax(axis=0)
        n_changed = np.sum(classes[last, places] != classes[-1])
        if n_changed + 1 > tolerance * (len(y) + 1):
            break
        threshold, asked = float(lower), last
    saved = 1 - (1 + asked.mean()) / len(p)
    return replace(exact, threshold=threshold, saved=float(saved))


def _order(p, y, weights):
    score = accuracy(p, y)
    if weights is not None:
        score = score - 2 * (np.asarray(weights) == 0)  # those say nothing: at the end
    return tuple(int(place) for place in np.argsort(-score, kind="stable"))


def _stages(p, exact, rule, weights):
    """Return class, margin and certainty, each `(members, samples)`, by members asked.

    With all members every sample is certain.
    """
    asked = p[list(exact.order)]
    stages = [
        combine_partial(asked[: n + 1], exact, rule=rule, weights=weights)
        for n in range(len(p))
    ]
    together, certain = (np.stack(parts) for parts in zip(*stages, strict=True))
    certain[-1] = True
    return together.argmax(axis=-1), margin(together), certain


def _thresholds(margins):
    """Return margins to try, the highest first."""
    before = margins[:-1] if len(margins) > 1 else margins
    return np.unique(np.quantile(before, np.linspace(0, 1, _N_THRESHOLDS)))[::-1]
