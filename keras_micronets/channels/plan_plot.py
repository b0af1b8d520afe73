from typing import TYPE_CHECKING, Any

from keras_micronets import _figures
from keras_micronets._figures import FAINT, INK
from keras_micronets.channels.plans import Plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KEPT = "#0072B2"


def plot_plan(plan: Plan, *, kind: str = "channels", ax: Any = None) -> "Figure":
    """Draw what a plan leaves of each layer that multiplies.

    A grey bar is what a layer has, and the blue one on it what stays.

    Args:
        plan: A `Plan`.
        kind: `"channels"`, `"params"` or `"macs"`. Defaults to `"channels"`.
        ax: A matplotlib `Axes` to draw on. Defaults to `None`, a new figure.

    Returns:
        The matplotlib `Figure`.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If `kind` is none of these.

    Example:

    ```python
    plan = keras_micronets.channels.plan(model, macs=0.5)
    keras_micronets.channels.plot_plan(plan, kind="macs").savefig("plan.png")
    ```
    """
    titles = {
        "channels": "channels",
        "params": "parameters",
        "macs": "multiply-accumulates for one sample",
    }
    if kind not in titles:
        raise ValueError(
            f"Expected `kind` to be one of {list(titles)}. Received: {kind!r}."
        )
    rows = [row for row in plan.rows if row.macs[0]]
    if ax is None:
        ax = _figures.new_axes(7.2, 1.0 + 0.22 * len(rows))
    names = [row.layer for row in rows]
    pairs = [getattr(row, kind) for row in rows]
    ax.barh(names, [before for before, _ in pairs], color=FAINT, height=0.8)
    ax.barh(names, [after for _, after in pairs], color=_KEPT, height=0.8)
    for place, (before, after) in enumerate(pairs):
        share = f" {after / before:.0%}" if before else ""
        ax.text(before, place, share, va="center", color=INK, fontsize=7)
    ax.invert_yaxis()
    ax.margins(x=0.08, y=0.01)
    ax.tick_params(labelsize=7, length=0)
    ax.set_title(_title(plan, titles[kind]), loc="left", fontsize=9, color=INK)
    return ax.figure


def _title(plan, what):
    params, macs = (after / before for before, after in (plan.params, plan.macs))
    return f"{what}; of all, {params:.1%} of parameters and {macs:.1%} of MACs stay"
