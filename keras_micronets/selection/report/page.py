"""`write_report`: the report of a selection as one page that needs nothing else."""

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

from keras_micronets import _figures
from keras_micronets.selection.cross_validation import mean_of
from keras_micronets.selection.report import drawing as draw
from keras_micronets.selection.report import page_content as content
from keras_micronets.selection.report.page_plots import Picture, pictures
from keras_micronets.selection.report.report import SelectionReport
from keras_micronets.selection.report.selection_report import measures, selection_report
from keras_micronets.selection.selection import Selection
from keras_micronets.selection.validation import as_labels, check_probabilities

# What XML cannot hold, and half of a pair of surrogates.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


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
    title: str | None = None,
    random_state: int | None = 0,
    verbose: int = 0,
) -> Path:
    """Write the report of a selection as one HTML page, tables and pictures.

    The page needs no network, no JavaScript and no other file; its pictures have text
    that can be searched. The same input gives the same bytes.

    Large pools: the map, the tree and the matrix show 300 learners, the kept ones and a
    sample; the table lists 200; the curves are of a random sample of 500. The captions
    say so.

    Args:
        path: Path of the file to write. There is all of it or nothing.
        probabilities: Array of shape `(learners, samples, classes)`: what the choice
            was made on.
        y: Labels, sparse or one-hot; see `as_labels`.
        selection: The `Selection` made from them.
        names: Sequence of strings, one a learner. Defaults to `None`: numbers.
        n_bytes: Sequence of integers, the size of each learner's file in bytes;
            `None` where not known. Defaults to `None`.
        gzip_bytes: The same after gzip. Defaults to `None`.
        sparsity: Sequence of floats in `[0, 1]`; `None` where not known. Defaults to
            `None`.
        milliseconds: Sequence of floats, the time that each learner takes for one
            sample; `None` where not known. Defaults to `None`.
        ensemble_probabilities: Array of shape `(samples, classes)`: what the ensemble
            predicts. Defaults to `None`: the mean, weighted as in `selection`.
        methods: Dictionary from a name to a way to choose, for the curves; see
            `scores_by_members`. Defaults to `None`: the method of the selection, where
            it is a function of `keras_micronets.selection`, and its rivals `greedy`,
            `top_k` and `random_k`.
        n_members: Sequence of integers, the numbers of members to draw the curves at.
            Defaults to `None`: from one to twice as many as are kept, and to eight at
            least.
        n_resamples: Integer. Number of splits of the samples that the curves are the
            mean of. Defaults to `20`.
        temperature: Float, the temperature to show the effect of on all samples.
            Defaults to `None`: fitted on one half and shown on the other.
        title: String. Defaults to `None`: how many are kept.
        random_state: Integer that seeds the splits, or `None`, which differs from call
            to call. Defaults to `0`.
        verbose: `1` says on standard error how far it has come. Defaults to `0`.

    Returns:
        The path of the page.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If data is bad or a sequence has not one value a learner.

    Example:

    ```python
    selection = cluster(probabilities, y, n_members=4, random_state=0)
    write_report("report.html", probabilities, y, selection, names=names)
    ```
    """
    _figures.new_axes()  # says at once what has to be installed
    p = check_probabilities(probabilities)
    y = as_labels(y, p.shape[2], p.shape[1])
    together = ensemble_probabilities
    if together is None:
        together = selection.combined(p)
    report = selection_report(
        p,
        y,
        selection,
        names=_printable(names, len(p)),
        sparsity=sparsity,
        n_bytes=n_bytes,
        gzip_bytes=gzip_bytes,
        milliseconds=milliseconds,
        ensemble_probabilities=together,
    )
    drawn = pictures(
        report,
        p,
        y,
        together,
        methods=content.methods(selection) if methods is None else dict(methods),
        n_members=n_members,
        n_resamples=n_resamples,
        temperature=temperature,
        random_state=random_state,
        verbose=verbose,
    )
    mean_of_all = measures(mean_of(p), y)
    page = _template("page").substitute(
        title=html.escape(title or content.title(report)),
        summary=html.escape(content.summary(report, mean_of_all)),
        comparison=content.comparison(content.compared(report, mean_of_all)),
        choice=_choice(report),
        learners=content.learners(report),
        figures="".join(map(_figure, drawn)),
        sizes=content.sizes(report),
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
        "<h2>How the method was chosen</h2>\n"
        f'<pre class="scroll">{html.escape(report.choice)}</pre>'
    )


def _figure(picture: Picture) -> str:
    svg = as_svg(picture.name, picture.paint)
    svg.set("role", "img")
    svg.set("aria-labelledby", f"{picture.name}-heading")
    svg.set("aria-describedby", f"{picture.name}-caption")
    return _template("figure").substitute(
        name=picture.name,
        heading=html.escape(picture.heading),
        picture=tostring(svg, encoding="unicode"),
        caption=html.escape(picture.caption),
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


_SIZE = 4.2, 3.6
# In a page that may be light or dark, its own colours.
_OF_PAGE = {draw.INK: "ink", draw.SOFT: "soft", draw.NOISE: "noise", draw.FAINT: "line"}
_OF_PAGE["#ffffff"] = "paper"


def as_svg(name: str, paint: Callable[[Any], None]) -> ElementTree.Element:
    """Draw a figure and return it as an `svg` element.

    Args:
        name: String, unlike those of all other figures of the page.
        paint: Function that draws on the matplotlib `Axes` it gets.

    Returns:
        The element. The same drawing always gives the same one, whatever style the
        user has set.
    """
    from matplotlib import style
    from matplotlib.text import Text

    with style.context(["default", _style(name)]), warnings.catch_warnings():
        # The browser may have the letters that matplotlib's font has not.
        warnings.filterwarnings("ignore", "Glyph")
        ax = draw.new_axes(*_SIZE)
        paint(ax)
        for text in ax.figure.findobj(Text):
            text.set_path_effects([])  # they would turn text into outlines
        file = io.BytesIO()
        ax.figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return _to_stand_in_a_page(ElementTree.fromstring(file.getvalue()), name)


def _style(name: str) -> dict[str, Any]:
    return {"svg.fonttype": "none", "svg.hashsalt": name}


def _to_stand_in_a_page(svg: ElementTree.Element, name: str) -> ElementTree.Element:
    for parent in list(svg.iter()):
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for element in svg.iter():
        element.tag = _local(element.tag)  # a page needs no namespaces
        values = {_local(key): value for key, value in element.attrib.items()}
        element.attrib.clear()
        element.attrib.update({k: _own(k, v, name) for k, v in values.items()})
    for key in ("width", "height", "version"):
        del svg.attrib[key]
    return svg


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _own(key: str, value: str, name: str) -> str:
    """Make an attribute refer to this figure's ids and the page's colours."""
    if key == "id":
        return f"{name}-{value}"
    if key == "href" and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    value = value.replace("url(#", f"url(#{name}-")
    if key == "style":
        for colour, variable in _OF_PAGE.items():
            value = value.replace(colour, f"var(--{variable})")
    return value
