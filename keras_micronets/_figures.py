"""A blank figure for the package's pictures. Imports matplotlib only when drawing."""

from typing import Any

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
            "Pictures need matplotlib. Install it with "
            "`pip install keras-micronets[plots]`."
        ) from None
    figure = pyplot.figure(figsize=(width, height), dpi=120, layout="constrained")
    # Closed, a notebook shows the returned figure once, not a second time by itself.
    pyplot.close(figure)
    ax = figure.add_subplot()
    ax.spines[:].set_visible(False)
    return ax
