"""`write_report`: the report of a selection as one self-contained HTML page."""

import html
import io
import os
import re
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import tostring

import numpy as np

from keras_micronets import _figures
from keras_micronets.edge.tasks import SpreadScale
from keras_micronets.selection.cross_validation import mean_of
from keras_micronets.selection.report import drawing
from keras_micronets.selection.report import page_content as content
from keras_micronets.selection.report.page_plots import PagePlot, page_plots
from keras_micronets.selection.report.report import SelectionReport
from keras_micronets.selection.report.selection_report import (
    compute_metrics,
    one_predictor,
    selection_report,
)
from keras_micronets.selection.selection import Selection
from keras_micronets.selection.targets import check_data

__all__ = ["write_report"]

# Characters that XML cannot represent, and unpaired surrogates.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_SIZE = 4.2, 3.6
# The page may be light or dark: its own colours replace those of the plots.
_PAGE_COLOURS = {
    drawing.INK: "ink",
    drawing.SOFT: "soft",
    drawing.NOISE: "noise",
    drawing.FAINT: "line",
}
_PAGE_COLOURS["#ffffff"] = "paper"


def write_report(
    path: str | os.PathLike,
    probabilities: Any,
    y: Any,
    selection: Selection,
    *,
    names: Sequence[str] | None = None,
    n_bytes: Sequence[int | None] | None = None,
    gzip_bytes: Sequence[int | None] | None = None,
    sparsity: Sequence[float | None] | None = None,
    milliseconds: Sequence[float | None] | None = None,
    ensemble_probabilities: Any = None,
    methods: Mapping[str, Callable[..., Selection]] | None = None,
    n_members: Sequence[int] | None = None,
    n_resamples: int = 20,
    temperature: float | None = None,
    spread_scale: SpreadScale | None = None,
    title: str | None = None,
    random_state: int | None = 0,
    verbose: int = 0,
) -> Path:
    """Write the report of a selection as one HTML page with tables and plots.

    The page needs no network, no JavaScript and no other file; the text in its plots
    can be searched. The same input gives the same bytes.

    For large pools, the map, the tree and the matrix show 300 learners, the kept ones
    and a sample; the table lists 200; the curves are of a random sample of 500. The
    captions say so.

    Args:
        path: Path of the file to write. It is written completely or not at all.
        probabilities, y, selection: See `selection_report`.
        names: Sequence of strings, one for each learner. Defaults to `None`: numbers.
        n_bytes, gzip_bytes, sparsity, milliseconds: See `selection_report`.
        ensemble_probabilities: See `selection_report`; without the temperature.
        methods: Dictionary from a name to a selection method, for the curves; see
            `scores_by_members`. Defaults to `None`: the method of the selection, if it
            is in `METHODS`, and the baselines `greedy`, `top_k` and `random_k`.
        n_members: Sequence of integers, the numbers of members of the curves. Defaults
            to `None`: from one to twice the number kept, at least to eight.
        n_resamples: Integer, the number of splits of the samples that the curves
            average over. Defaults to `20`.
        temperature: Float, the temperature of the ensemble, whose effect is shown on
            all samples. Defaults to `None`: it has none, and the effect of one that is
            fitted on one half is shown on the other.
        spread_scale: See `selection_report`.
        title: String. Defaults to `None`: how many learners are kept.
        random_state: Integer, the seed of the splits, or `None`, which differs from
            call to call. Defaults to `0`.
        verbose: `0`, silent, or `1`, a line of progress. Defaults to `0`.

    Returns:
        The path of the page.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the data is invalid or a sequence has another length than there
            are learners.

    Example:

    ```python
    selection = kmn.selection.cluster(probabilities, y, n_members=4, random_state=0)
    names = [f"learner-{i}" for i in range(len(probabilities))]
    write_report("report.html", probabilities, y, selection, names=names)
    ```
    """
    _figures.new_axes()  # fails at once without matplotlib
    p, targets = check_data(probabilities, y, names)
    ensemble = ensemble_probabilities
    if ensemble is None:
        ensemble = selection.combined(p)
    ensemble = np.asarray(ensemble)
    report = selection_report(
        p,
        targets,
        selection,
        names=_printable(names, len(p)),
        sparsity=sparsity,
        n_bytes=n_bytes,
        gzip_bytes=gzip_bytes,
        milliseconds=milliseconds,
        ensemble_probabilities=ensemble,
        temperature=1.0 if temperature is None else temperature,
        spread_scale=spread_scale,
    )
    drawn = page_plots(
        report,
        p,
        targets,
        one_predictor(ensemble, targets),
        methods=content.compared_methods(selection)
        if methods is None
        else dict(methods),
        n_members=n_members,
        n_resamples=n_resamples,
        temperature=temperature,
        random_state=random_state,
        verbose=verbose,
    )
    mean_of_all = compute_metrics(one_predictor(mean_of(p), targets), targets)
    page = _template("page").substitute(
        title=html.escape(title or content.title(report)),
        summary=html.escape(content.summary(report, mean_of_all)),
        comparison=content.comparison_table(
            content.compared_predictors(report, mean_of_all)
        ),
        choice=_choice(report),
        learners=content.learner_table(report),
        figures="".join(map(_figure, drawn)),
        sizes=content.size_table(report),
    )
    return _write(Path(path), page)


def _printable(names: Sequence[str] | None, n_learners: int) -> list[str]:
    if names is None:
        return [f"learner {i}" for i in range(n_learners)]
    return [_UNPRINTABLE.sub("\ufffd", str(name)) for name in names]


def _choice(report: SelectionReport) -> str:
    if report.choice is None:
        return ""
    return (
        "<h2>How the members were chosen</h2>\n"
        f'<pre class="scroll">{html.escape(report.choice)}</pre>'
    )


def _figure(plot: PagePlot) -> str:
    svg = _as_svg(plot.name, plot.draw)
    svg.set("role", "img")
    svg.set("aria-labelledby", f"{plot.name}-heading")
    svg.set("aria-describedby", f"{plot.name}-caption")
    return _template("figure").substitute(
        name=plot.name,
        heading=html.escape(plot.heading),
        plot=tostring(svg, encoding="unicode"),
        caption=html.escape(plot.caption),
    )


def _template(name: str) -> Template:
    path = Path(__file__).with_name(f"{name}.html")
    return Template(path.read_text(encoding="utf-8"))


def _write(path: Path, page: str) -> Path:
    partial = path.with_name(f".partial-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        partial.write_text(page, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _as_svg(name: str, paint: Callable[[Any], None]) -> ElementTree.Element:
    """Draw a figure and return it as an `svg` element.

    Text stays text, ids are unique in the page, and there is no date: the same drawing
    gives the same element, independent of the user's style.

    Args:
        name: String, unique in the page.
        paint: Function that draws on matplotlib `Axes`.
    """
    from matplotlib import style
    from matplotlib.text import Text

    with style.context(["default", _style(name)]), warnings.catch_warnings():
        # The browser may have characters that matplotlib's font lacks.
        warnings.filterwarnings("ignore", "Glyph")
        ax = drawing.new_axes(*_SIZE)
        paint(ax)
        for text in ax.figure.findobj(Text):
            text.set_path_effects([])  # they would turn text into outlines
        file = io.BytesIO()
        ax.figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return _without_namespaces(ElementTree.fromstring(file.getvalue()), name)


def _style(name: str) -> dict[str, Any]:
    return {"svg.fonttype": "none", "svg.hashsalt": name}


def _without_namespaces(svg: ElementTree.Element, name: str) -> ElementTree.Element:
    for parent in list(svg.iter()):
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for element in svg.iter():
        element.tag = _local(element.tag)  # a page needs no namespaces
        values = {_local(key): value for key, value in element.attrib.items()}
        element.attrib.clear()
        element.attrib.update({k: _localized(k, v, name) for k, v in values.items()})
    for key in ("width", "height", "version"):
        del svg.attrib[key]
    return svg


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _localized(key: str, value: str, name: str) -> str:
    """Return an attribute with this figure's ids and the page's colours."""
    if key == "id":
        return f"{name}-{value}"
    if key == "href" and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    value = value.replace("url(#", f"url(#{name}-")
    if key == "style":
        for colour, variable in _PAGE_COLOURS.items():
            value = value.replace(colour, f"var(--{variable})")
    return value
