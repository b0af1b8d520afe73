"""The plots of the report page, in order, and their captions."""

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
from keras_micronets.selection.metrics import expected_calibration_error
from keras_micronets.selection.report import pair_plots, plots
from keras_micronets.selection.report.report import SelectionReport
from keras_micronets.selection.report.selection_report import difference
from keras_micronets.selection.targets import Targets
from keras_micronets.selection.temperature import apply_temperature, fit_temperature

__all__ = ["PagePlot", "page_plots"]

_MAX_SCORED = 500


class PagePlot(NamedTuple):
    """A plot of the page: its id, heading, caption, and how to draw it on axes."""

    name: str
    heading: str
    caption: str
    draw: Callable[[Any], Any]


def page_plots(
    report: SelectionReport,
    p: np.ndarray,
    targets: Targets,
    ensemble: np.ndarray,
    *,
    methods: dict[str, Callable],
    n_members: Any,
    n_resamples: int,
    temperature: float | None,
    random_state: int | None,
    verbose: int,
) -> list[PagePlot]:
    """Return the plots of the page.

    The arguments are the checked arguments of `write_report`; `ensemble` holds the
    predictions of the ensemble, see `one_predictor`.
    """
    random = np.random.RandomState(random_state)
    shown = replace(report, rows=report.on_map)
    sample = ""
    if len(shown.rows) < len(report.rows):
        sample = (
            f" Shown are {len(shown.rows)} of {len(report.rows):,} learners: the kept "
            "ones and a random sample of the others."
        )
    result = _of_pairs(shown, p, targets, sample)
    if len(targets) > 1:
        counts = _counts(report, n_members)
        scored = np.sort(random.permutation(len(p))[:_MAX_SCORED])
        counts = [count for count in counts if count <= len(scored)]
        scores = scores_by_members(
            p if len(scored) == len(p) else p[scored],
            targets.argument,
            methods,
            n_members=counts,
            n_resamples=n_resamples,
            random_state=random,
            verbose=verbose,
        )
        result += _of_members(scores, n_resamples, len(scored), len(p))
        if targets.has_classes:
            y = targets.y.reshape(-1).astype(int)
            result.append(_of_confidence(ensemble, y, temperature, random))
    return result + _of_sizes(shown, sample)


def _of_pairs(
    shown: SelectionReport, p: np.ndarray, targets: Targets, sample: str
) -> list[PagePlot]:
    indices = [row.index for row in shown.rows]
    distances = difference(p[indices], targets.task, scale=targets.scale)
    share = "root mean square difference of their learners' predictions"
    darker = "differ more"
    if targets.has_classes:
        share = "share of samples on which their learners predict different classes"
        darker = "predict different classes more often"
    better = shown.score_name.replace("Accuracy", "accuracy")
    pairs = {"report": shown, "distances": distances}
    return [
        PagePlot(
            "map",
            "Map of the learners",
            f"Each point is a learner, larger with a higher {better}; the closer two "
            "points, the more similar the predictions. Kept learners are "
            "ringed and, where there is space, named; colours are clusters, noise is "
            "grey." + sample,
            partial(plots.draw_map, report=shown),
        ),
        PagePlot(
            "tree",
            "Disagreement as a tree",
            f"Two branches meet at the mean {share}. Kept learners are ringed; “+ 3” "
            "is a point for three more." + sample,
            partial(pair_plots.draw_dendrogram, **pairs),
        ),
        PagePlot(
            "matrix",
            "Disagreement of all pairs",
            "Each row and each column is a learner, ordered by cluster as the coloured "
            f"bars show; darker cells {darker}. Pale blocks are learners that "
            "can replace each other." + sample,
            partial(pair_plots.draw_disagreement, **pairs),
        ),
    ]


def _counts(report: SelectionReport, n_members: Any) -> list[int]:
    if n_members is not None:
        return list(n_members)
    kept = len(report.kept)
    return sorted({kept, *member_counts(len(report.rows), max(8, 2 * kept))})


def _of_members(
    scores: MemberScores, n_resamples: int, n_scored: int, n_learners: int
) -> list[PagePlot]:
    low, high = plots.BAND
    note = (
        f" Each point is the mean of {n_resamples} random splits of the samples, half "
        f"to select on and half to score on; bands reach from the {low}th to the "
        f"{high}th percentile of the splits."
    )
    if n_scored < n_learners:
        note += (
            f" Selected from a random sample of {n_scored} of {n_learners:,} learners."
        )
    if any(np.isnan(values).any() for values in scores.accuracy.values()):
        note += " A gap: the method could not select this number of members."
    score = "Accuracy" if scores.has_classes else "R²"
    loss = (
        "Mean squared error, divided by the variance of the targets: lower is better."
    )
    if scores.has_classes:
        loss = (
            "Negative log-likelihood: lower is better; it penalises confident errors."
        )
    curves = partial(plots.draw_curves, scores=scores)
    return [
        PagePlot(
            "accuracy",
            f"{score} by number of members",
            "Higher is better. Where a line flattens, more members cost more than they "
            "gain." + note,
            partial(curves, metric="accuracy"),
        ),
        PagePlot(
            "likelihood",
            f"{'Likelihood' if scores.has_classes else 'Error'} by number of members",
            loss + note,
            partial(curves, metric="negative_log_likelihood"),
        ),
    ]


def _of_confidence(
    ensemble: np.ndarray,
    y: np.ndarray,
    temperature: float | None,
    random: np.random.RandomState,
) -> PagePlot:
    shown, where = np.arange(len(y)), "on all samples"
    if temperature is None:
        to_fit, shown = np.split(random.permutation(len(y)), [len(y) // 2])
        temperature = fit_temperature(ensemble[to_fit], y[to_fit])
        where = "fitted on a random half of the samples and shown on the other"
    before, labels = ensemble[shown], y[shown]
    after = apply_temperature(before, temperature)
    errors = [expected_calibration_error(q, labels) for q in (before, after)]
    return PagePlot(
        "reliability",
        "Reliability of the confidence",
        "On the diagonal the ensemble is calibrated, below it overconfident, above it "
        "underconfident; larger points have more samples. The temperature is "
        f"{temperature:.2f}, {where}; the calibration error goes from {errors[0]:.3f} "
        f"to {errors[1]:.3f}.",
        partial(
            plots.draw_reliability,
            predictors={"before scaling": before, "after scaling": after},
            y=labels,
        ),
    )


def _of_sizes(report: SelectionReport, sample: str) -> list[PagePlot]:
    try:
        suffix = " after gzip" if plots.size_key(report) == "gzip_bytes" else ""
    except ValueError:
        return []
    return [
        PagePlot(
            "bytes",
            f"{report.score_name} by size",
            f"Size{suffix} against the score on the samples used for selection. The "
            "star is the ensemble, at the total size of its members; up and to the "
            "left is better." + sample,
            partial(_draw_sizes, report=report),
        )
    ]


def _draw_sizes(ax: Any, report: SelectionReport) -> None:
    ax.set_xlabel("Size, kB")
    ax.set_ylabel(f"{report.score_name}, %")
    plots.draw_accuracy_bytes(ax, report)
