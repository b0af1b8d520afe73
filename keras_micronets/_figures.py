"""Make figures for the package's plots; import matplotlib only when drawing."""

from typing import Any

__all__ = ["FAINT", "INK", "new_axes"]

INK, FAINT = "#222222", "#dddddd"


def new_axes(width: float = 7.2, height: float = 5.2) -> Any:
    """Return matplotlib `Axes` on a new figure, whose size is in inches.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib import pyplot
    except ImportError:
        raise ImportError(
            "Plots need matplotlib. Install it with "
            "`pip install keras-micronets[plots]`."
        ) from None
    figure = pyplot.figure(figsize=(width, height), dpi=120, layout="constrained")
    # An open figure would be shown by a notebook a second time.
    pyplot.close(figure)
    ax = figure.add_subplot()
    ax.spines[:].set_visible(False)
    return ax
