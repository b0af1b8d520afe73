"""The pictures of the page, in order, and the words below each."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from keras_micronets.selection.cross_validation import (
    MemberScores,
    member_counts,
    scores_by_members,
)
from keras_micronets.selection.diversity import disagreement
from keras_micronets.selection.metrics import expected_calibration_error
from keras_micronets.selection.report import pair_plots, plots
from keras_micronets.selection.report.report import SelectionReport
from keras_micronets.selection.temperature import apply_temperature, fit_temperature

_MOST_SCORED = 500


class Picture(NamedTuple):
    """A picture of the page: how to paint it on axes, and its words."""

    name: str
    heading: str
    caption: str
    paint: Callable[[Any], Any]


def pictures(
    report: SelectionReport,
    p: np.ndarray,
    y: np.ndarray,
    ensemble: np.ndarray,
    *,
    methods: dict[str, Callable],
    n_members: Any,
    n_resamples: int,
    temperature: float | None,
    random_state: int | None,
    verbose: int,
) -> list[Picture]:
    """Gather what the page shows.

    Args:
        report: A `SelectionReport`.
        p: Array of shape `(learners, samples, classes)`.
        y: Integers of shape `(samples,)`.
        ensemble: Array of shape `(samples, classes)`: what the kept predict together.
        methods: See `write_report`, as all that follows.
        n_members: Integers.
        n_resamples: Integer.
        temperature: Float or `None`.
        random_state: Integer or `None`.
        verbose: `0` or `1`.

    Returns:
        List of `Picture`.
    """
    random = np.random.RandomState(random_state)
    shown = replace(report, rows=report.on_map)
    sample = ""
    if len(shown.rows) < len(report.rows):
        sample = (
            f" Shown are {len(shown.rows)} of {len(report.rows):,} learners: the kept "
            "ones and a random sample of the others."
        )
    made = _of_pairs(shown, p, sample)
    if len(y) > 1:
        counts = _counts(report, n_members)
        scored = np.sort(random.permutation(len(p))[:_MOST_SCORED])
        counts = [count for count in counts if count <= len(scored)]
        scores = scores_by_members(
            p if len(scored) == len(p) else p[scored],
            y,
            methods,
            n_members=counts,
            n_resamples=n_resamples,
            random_state=random,
            verbose=verbose,
        )
        made += _of_members(scores, n_resamples, len(scored), len(p))
        made.append(_of_confidence(ensemble, y, temperature, random))
    return made + _of_sizes(shown, sample)


def _of_pairs(shown: SelectionReport, p: np.ndarray, sample: str) -> list[Picture]:
    distances = disagreement(p[[row.index for row in shown.rows]])
    return [
        Picture(
            "map",
            "Who predicts alike",
            "Each point is a learner, a larger one more accurate; the closer two are, "
            "the more alike the probabilities they predict. Kept learners are ringed "
            "and, where there is room, named; colours are clusters, noise is grey."
            + sample,
            partial(plots.draw_map, report=shown),
        ),
        Picture(
            "tree",
            "Who disagrees least",
            "Follow two learners to the left until their lines meet: there stands the "
            "share of samples on which their branches predict different classes, on "
            "average. Kept learners are ringed; “+ 3” is a point for three more."
            + sample,
            partial(pair_plots.draw_dendrogram, report=shown, distances=distances),
        ),
        Picture(
            "matrix",
            "Who disagrees with whom",
            "Each row and each column is a learner, cluster by cluster as the coloured "
            "bars say; the darker, the more often the two predict different classes. "
            "Pale blocks are learners that stand for one another." + sample,
            partial(pair_plots.draw_disagreement, report=shown, distances=distances),
        ),
    ]


def _counts(report: SelectionReport, n_members: Any) -> list[int]:
    if n_members is not None:
        return list(n_members)
    kept = len(report.kept)
    return sorted({kept, *member_counts(len(report.rows), max(8, 2 * kept))})


def _of_members(
    scores: MemberScores, n_resamples: int, n_scored: int, n_learners: int
) -> list[Picture]:
    low, high = plots.BAND
    how = (
        f" Each point is the mean of {n_resamples} random splits of the samples, half "
        f"to choose on and half to score on; bands reach from the {low}th to the "
        f"{high}th percentile of the splits."
    )
    if n_scored < n_learners:
        how += f" Chosen from a random sample of {n_scored} of {n_learners:,} learners."
    if any(np.isnan(values).any() for values in scores.accuracy.values()):
        how += " A gap: there the method could not choose so many."
    return [
        Picture(
            "accuracy",
            "What another member adds: accuracy",
            "Higher is better. Where a line flattens, more members cost more than they "
            "give." + how,
            partial(plots.draw_curves, scores=scores, measure="accuracy"),
        ),
        Picture(
            "likelihood",
            "What another member adds: likelihood",
            "Negative log-likelihood: lower is better, and it counts how sure a wrong "
            "answer was." + how,
            partial(
                plots.draw_curves,
                scores=scores,
                measure="negative_log_likelihood",
            ),
        ),
    ]


def _of_confidence(
    ensemble: np.ndarray,
    y: np.ndarray,
    temperature: float | None,
    random: np.random.RandomState,
) -> Picture:
    shown, where = np.arange(len(y)), "on all samples"
    if temperature is None:
        to_fit, shown = np.split(random.permutation(len(y)), [len(y) // 2])
        temperature = fit_temperature(ensemble[to_fit], y[to_fit])
        where = "fitted on a random half of the samples and shown on the other"
    before, labels = ensemble[shown], y[shown]
    after = apply_temperature(before, temperature)
    errors = [expected_calibration_error(q, labels) for q in (before, after)]
    return Picture(
        "reliability",
        "As sure as it is right?",
        "On the diagonal the ensemble is right as often as it says, below it too sure, "
        "above it not sure enough; larger points hold more samples. The temperature is "
        f"{temperature:.2f}, {where}; the calibration error goes from {errors[0]:.3f} "
        f"to {errors[1]:.3f}.",
        partial(
            plots.draw_reliability,
            predictors={"before scaling": before, "after scaling": after},
            y=labels,
        ),
    )


def _of_sizes(report: SelectionReport, sample: str) -> list[Picture]:
    try:
        after = " after gzip" if plots.size_key(report) == "gzip_bytes" else ""
    except ValueError:
        return []
    return [
        Picture(
            "bytes",
            "What the bytes buy",
            f"Size{after} against accuracy on the samples used for choosing. The star "
            "is the ensemble, at the size of its members together; up and to the left "
            "is better." + sample,
            partial(_draw_bytes, report=report),
        )
    ]


def _draw_bytes(ax: Any, report: SelectionReport) -> None:
    ax.set_xlabel("Size, kB")
    ax.set_ylabel("Accuracy, %")
    plots.draw_accuracy_bytes(ax, report)
