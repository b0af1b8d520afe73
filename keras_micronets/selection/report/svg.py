"""Figures as SVG to stand in a page: text is text, ids are their own, no date."""

import io
import warnings
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

from keras_micronets.selection.report import _drawing as draw

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
