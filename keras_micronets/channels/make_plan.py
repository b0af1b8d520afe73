"""Budgets that no count tells: the size of an int8 file, and its time here."""

import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np

from keras_micronets.channels.cut import cut_by_graph
from keras_micronets.channels.graph import ChannelGraph
from keras_micronets.channels.importance import GroupNorm
from keras_micronets.channels.planner import Planner
from keras_micronets.channels.plans import Plan
from keras_micronets.edge.bench import interleaved_medians
from keras_micronets.export.tflite import export_tflite
from keras_micronets.export.tflite_model import TFLiteModel
from keras_micronets.layers.kernels import Kernel

N_SAMPLES, N_HALVINGS, N_TIMES = 8, 6, 21


def meet(
    model: keras.Model,
    graph: ChannelGraph,
    plan_to: Callable[[float], Plan],
    *,
    n_bytes: float | None,
    latency: float | None,
    lowest: float,
) -> Plan:
    """Return the plan of the most multiply-accumulates whose file is within budgets.

    It is found by halving: networks are cut, exported to int8 with ranges from noise
    (sizes and times do not depend on them), and measured.

    Args:
        model: The whole model.
        graph: Its `ChannelGraph`.
        plan_to: Function from a share of multiply-accumulates to the plan.
        n_bytes: Share of the whole model's int8 file that may be kept, or `None`.
        latency: Share of its time on this machine, or `None`.
        lowest: The smallest share of multiply-accumulates that can be asked for.

    Raises:
        ValueError: If a budget lies outside (0, 1], or the smallest network that can
            be made is above one.
    """
    shares = [share for share in (n_bytes, latency) if share is not None]
    if not all(0 < share <= 1 for share in shares):
        raise ValueError(
            "Expected `n_bytes` and `latency` as shares that may be kept, above 0 "
            f"and at most 1. Received: {n_bytes=}, {latency=}."
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        whole = _file(model, path)

        def excess(plan):
            part = _file(cut_by_graph(model, graph, plan), path)
            return _excess(part, whole, n_bytes, latency)

        best = plan_to(lowest)
        over = excess(best)
        if max(over.values()) > 1:
            worst = max(over, key=over.get)
            raise ValueError(
                f"Expected a share of {worst} that can be kept. Received one that the "
                f"smallest network that {model.name!r} can become exceeds by "
                f"{over[worst] - 1:.0%}. Allow more, or lower `min_channels`."
            )
        low, high = lowest, 1.0
        for _ in range(N_HALVINGS):
            middle = (low + high) / 2
            plan = plan_to(middle)
            if max(excess(plan).values()) <= 1:
                low, best = middle, plan
            else:
                high = middle
    return best


def _file(model, path):
    """The int8 file of a model, with ranges from noise."""
    rng = np.random.default_rng(0)
    noise = [
        rng.normal(0, 1, (N_SAMPLES, *tensor.shape[1:])).astype("float32")
        for tensor in keras.tree.flatten(model.inputs)
    ]
    data = noise[0] if len(noise) == 1 else noise
    with warnings.catch_warnings():  # about ranges, which do not matter here
        warnings.simplefilter("ignore")
        export_tflite(model, path, representative_data=data)
    return path.read_bytes()


def _excess(part, whole, n_bytes, latency):
    """By what factor each budget is exceeded."""
    found = {}
    if n_bytes is not None:
        found["n_bytes"] = len(part) / len(whole) / n_bytes
    if latency is not None:
        tasks = [TFLiteModel(file, "model").invocation() for file in (part, whole)]
        ours, theirs = interleaved_medians(tasks, repeats=N_TIMES)
        found["latency"] = ours / theirs / latency
    return found


def plan(
    model: keras.Model,
    *,
    params: float | None = None,
    macs: float | None = None,
    n_bytes: float | None = None,
    latency: float | None = None,
    scope: Callable[[keras.Model], Sequence[Kernel]] | None = None,
    importance: Callable | Sequence[np.ndarray] | None = None,
    allocation: str = "global",
    round_to: int = 8,
    min_channels: int = 8,
) -> Plan:
    """Choose the channels of a model to keep, within a budget; nothing is cut yet.

    Budgets are shares that may be *kept*, and are come close to from below: as long
    as a run of `round_to` channels more would fit, it is kept. With two of them the
    widths are chosen so that both are reached.

    A multiply-accumulate is one product of a weight of a kernel and a value; what
    most papers on pruning call a FLOP is one, too. Parameters are all that Keras counts
    for the plain model.

    Args:
        model: A built functional or sequential model, prepared or not.
        params: Float in (0, 1], the share of parameters that may be kept. `None` for
            any. Defaults to `None`.
        macs: The same for multiply-accumulates.
        n_bytes: The same for the size of the int8 `.tflite` file, which is measured:
            eight networks are exported on the way.
        latency: The same for the time of that file on this machine, with one thread,
            measured in turns with the whole model's.
        scope: `layers.Scope`, or any function from a model to kernel handles. Layers
            whose kernels are not chosen keep all channels that they read or make.
            `None` for all layers. Defaults to `None`.
        importance: One of `keras_micronets.channels.importance`, any function `(model,
            graph, gradients)` that returns an array `(channels,)` for each group of the
            model's `channel_graph`, or those arrays. In each group the highest stay.
            `None` for `GroupNorm()`. Defaults to `None`.
        allocation: `"global"`: widths follow the scores, and what channels cost.
            `"uniform"`: all groups keep the same share, and the tighter budget counts.
            Defaults to `"global"`.
        round_to: Integer, of which the numbers kept in a group are multiples. Defaults
            to `8`.
        min_channels: Integer, how many channels of each group stay. Defaults to `8`.

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
        min_channels=min_channels,
        scope=scope,
    )
    scores = GroupNorm() if importance is None else importance
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
