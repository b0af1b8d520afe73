"""What the page says in words, and whom it compares."""

from collections.abc import Callable
from functools import partial

from keras_micronets.selection.choosing.by_name import METHODS
from keras_micronets.selection.report.report import SelectionReport
from keras_micronets.selection.selection import Selection

_RIVALS = ("greedy", "top_k", "random_k")


def methods(selection: Selection) -> dict[str, Callable[..., Selection]]:
    """Find the function that made a selection, if it is one of ours, and its rivals."""
    own = _own_method(selection)
    return own | {name: METHODS[name] for name in _RIVALS if name not in own}


def _own_method(selection: Selection) -> dict[str, Callable[..., Selection]]:
    if selection.choice is not None:
        name = selection.choice.method
        return {name: METHODS[name]} if name in METHODS else {}
    if selection.method == "KMeans":
        chosen = partial(METHODS["cluster"], representative=selection.representative)
        return {"cluster": chosen}
    name, _, kind = selection.method.partition(" by ")
    if name not in METHODS:
        return {}
    options = {"by" if name == "top_k" else "loss": kind} if kind else {}
    return {selection.method: partial(METHODS[name], **options)}


def title(report: SelectionReport) -> str:
    """Say how many are kept."""
    return f"{_kept(report)} kept"


def summary(report: SelectionReport, mean_of_all: dict[str, float]) -> str:
    """Say in a paragraph what was kept, how, and what it is worth."""
    ensemble, best, together = map(_scores, compared(report, mean_of_all).values())
    how = report.method
    if report.representative:
        how += f" (representative: {report.representative})"
    verb = "is" if len(report.kept) == 1 else "are"
    samples = _many(report.n_samples, "sample")
    text = (
        f"{_kept(report)} {verb} kept, chosen by {how} on {samples}. On these the "
        f"ensemble reaches an accuracy of {ensemble}, the best single learner {best}, "
        f"and the mean of all learners {together}. "
    )
    if report.disagreement is not None:
        text += f"Two learners differ in {report.disagreement:.1%} of their predictions"
        if report.disagreement_kept is not None:
            text += f", two kept ones in {report.disagreement_kept:.1%}"
        text += ". "
    return text + (
        "Scores on samples that were used for choosing flatter: "
        "judge the ensemble on others."
    )


def compared(
    report: SelectionReport, mean_of_all: dict[str, float]
) -> dict[str, dict[str, float]]:
    """Give the measures of the ensemble, the best learner and the mean of all."""
    best = min(report.rows, key=lambda r: (-r.accuracy, r.negative_log_likelihood))
    unknown = {"n_bytes": None, "gzip_bytes": None, "milliseconds": None}
    return {
        f"ensemble of {len(report.kept)}": report.ensemble,
        f"best learner, {best.name}": best._asdict(),
        f"mean of all {len(report.rows):,}": {**mean_of_all, **unknown},
    }


def _scores(values: dict[str, float]) -> str:
    return (
        f"{values['accuracy']:.1%} (NLL "
        f"{values['negative_log_likelihood']:.3f}, ECE "
        f"{values['expected_calibration_error']:.3f})"
    )


def _kept(report: SelectionReport) -> str:
    return f"{len(report.kept):,} of {_many(len(report.rows), 'learner')}"


def _many(count: int, name: str) -> str:
    return f"{count:,} {name}" + ("s" if count != 1 else "")
