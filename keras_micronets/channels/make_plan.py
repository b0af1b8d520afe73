from collections.abc import Callable, Sequence

import keras
import numpy as np

from keras_micronets.channels.measured import meet
from keras_micronets.channels.planning import Plan
from keras_micronets.channels.planning.planner import Planner
from keras_micronets.channels.utilities import GroupNorm


def plan(
    model: keras.Model,
    *,
    params: float | None = None,
    macs: float | None = None,
    n_bytes: float | None = None,
    latency: float | None = None,
    scores: Callable | Sequence[np.ndarray] | None = None,
    allocation: str = "global",
    round_to: int = 8,
    least: int = 8,
    without: Sequence[str] = (),
) -> Plan:
    """Choose the channels of a model to keep, within a budget; nothing is cut yet.

    Budgets are shares that may be *kept*, and are come close to from below: as long
    as a run of `round_to` channels more would fit, it is kept. With two of them the
    widths are chosen so that both are reached.

    A multiply-accumulate is one product of a weight of a kernel and a value; what
    most papers on pruning call a FLOP is one, too. Parameters are all that Keras counts
    for the plain model.

    Args:
        model: A built functional or sequential model, promoted or not.
        params: Float in (0, 1], the share of parameters that may be kept. `None` for
            any. Defaults to `None`.
        macs: The same for multiply-accumulates.
        n_bytes: The same for the size of the int8 `.tflite` file, which is measured:
            eight networks are exported on the way.
        latency: The same for the time of that file on this machine, with one thread,
            measured in turns with the whole model's.
        scores: One of `keras_micronets.channels.utilities`, any function `(model,
            graph, gradients)` that returns an array `(channels,)` for each group of the
            model's `channel_graph`, or those arrays. In each group the highest stay.
            `None` for `GroupNorm()`. Defaults to `None`.
        allocation: `"global"`: widths follow the scores, and what channels cost.
            `"uniform"`: all groups keep the same share, and the tighter budget counts.
            Defaults to `"global"`.
        round_to: Integer, of which the numbers kept in a group are multiples. Defaults
            to `8`.
        least: Integer, how many channels of each group stay at least. Defaults to `8`.
        without: Names of layers whose channels stay, all of them. Defaults to `()`.

    Returns:
        A `Plan`; its `notes` say if a budget could not be come close to.

    Raises:
        ValueError: If no budget is given, one lies outside (0, 1], the model has
            nothing to cut, a layer is not there, or the smallest that it can become is
            above a budget.

    Example:

    ```python
    plan = keras_micronets.channels.plan(model, params=0.059, macs=0.238)
    print(plan)
    ```
    """
    planner = Planner(
        model,
        allocation=allocation,
        round_to=round_to,
        least=least,
        without=without,
    )
    scores = GroupNorm() if scores is None else scores
    if callable(scores):
        scores = scores(model, planner.graph, None)
    if n_bytes is None and latency is None:
        return planner.plan(scores, params=params, macs=macs)
    return meet(
        model,
        planner.graph,
        lambda share: planner.plan(
            scores, params=params, macs=min(share, 1.0 if macs is None else macs)
        ),
        n_bytes=n_bytes,
        latency=latency,
        lowest=planner.lowest("macs"),
    )
