"""The public `plan`, and its budget of file size, which is measured."""

import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np

from keras_micronets.channels.cut import cut_by_graph
from keras_micronets.channels.importance import GroupNorm
from keras_micronets.channels.operator_times import OperatorTimes
from keras_micronets.channels.planner import Planner
from keras_micronets.channels.plans import Plan
from keras_micronets.export.tflite import export_tflite
from keras_micronets.layers.kernels import Kernel

__all__ = ["plan"]

# Calibration samples, and steps of the bisection.
N_SAMPLES, N_BISECTIONS = 8, 6


def plan(
    model: keras.Model,
    *,
    params: float | None = None,
    macs: float | None = None,
    n_bytes: float | None = None,
    latency: float | None = None,
    operator_times: str | os.PathLike | None = None,
    scope: Callable[[keras.Model], Sequence[Kernel]] | None = None,
    importance: Callable | Sequence[np.ndarray] | None = None,
    allocation: str = "global",
    round_to: int = 8,
    min_channels: int = 8,
) -> Plan:
    """Choose the channels of a model to keep within budgets, without cutting them.

    A budget is the share that may be *kept*. As long as another run of `round_to`
    channels fits, it is kept. With two budgets the widths are chosen to reach both.

    Args:
        model: A built functional or sequential model, prepared or not.
        params: Float in (0, 1], the share of parameters to keep at most, as Keras
            counts them for the plain model. Defaults to `None`, no limit.
        macs: The same for multiply-accumulates (see `count_macs`), which most papers
            on pruning call FLOPs.
        n_bytes: The same for the size of the int8 `.tflite` file, measured on eight
            exported models.
        latency: The same for that file's inference time with one thread, predicted
            from the times of its operators. The plan has the milliseconds.
        operator_times: Path of the file that `python bundle bench --operators` has
            written on the device that `latency` is about. Defaults to `None`, this
            machine, whose operators are then measured, in some seconds.
        scope: `layers.Scope`, or any function from a prepared model to kernel handles.
            Layers whose kernels are not chosen keep all channels that they read or
            produce. Defaults to `None`, all layers.
        importance: One of `keras_micronets.channels.importance`; any function `(model,
            graph, gradients)` that returns an array `(channels,)` for each group of
            the model's `channel_graph`; or these arrays. In each group the most
            important channels stay. Defaults to `None`, `GroupNorm()`.
        allocation: `"global"`: widths follow importance and cost. `"uniform"`: all
            groups keep the same share, as the tighter budget requires. Defaults to
            `"global"`.
        round_to: Integer, the numbers of channels kept are multiples of it. A head of
            attention has as many channels as values. Defaults to `8`.
        min_channels: Integer, how many channels of each group stay at least. Defaults
            to `8`.

    Returns:
        A `Plan`. Its `notes` name budgets that are not fully used.

    Raises:
        ValueError: If no budget is given, one lies outside (0, 1] or cannot be met,
            the model has nothing to cut, the scope names an unknown layer, or the file
            of operator times is another one.

    Example:

    ```python
    plan = keras_micronets.channels.plan(model, params=0.5, macs=0.5, min_channels=2)
    print(plan)
    ```
    """
    times = None
    if operator_times is not None:
        times = OperatorTimes(operator_times)
    elif latency is not None:
        times = OperatorTimes.of_this_machine()
    planner = Planner(
        model,
        allocation=allocation,
        round_to=round_to,
        min_channels=min_channels,
        scope=scope,
        operator_times=times,
    )
    scores = GroupNorm() if importance is None else importance
    if callable(scores):
        scores = scores(model, planner.graph, None)
    if n_bytes is None:
        return planner.plan(scores, params=params, macs=macs, latency=latency)

    def plan_for(share):
        share = share if macs is None else min(share, macs)
        return planner.plan(scores, params=params, macs=share, latency=latency)

    return _plan_by_size(planner, plan_for, n_bytes)


def _plan_by_size(planner, plan_for, n_bytes):
    """Find the largest share of multiply-accumulates whose int8 file is small enough.

    `plan_for` returns the plan of a share.
    """
    model, smallest = planner.model, planner.smallest_share("macs")
    if not 0 < n_bytes <= 1:
        raise ValueError(
            "Expected `n_bytes` as the share that may be kept, above 0 and at most 1. "
            f"Received: {n_bytes=}."
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        largest = n_bytes * _int8_size(model, path)

        def ratio(plan):
            part = cut_by_graph(model, planner.graph, plan)
            return _int8_size(part, path) / largest

        best = plan_for(smallest)
        if (excess := ratio(best) - 1) > 0:
            raise ValueError(
                f"Expected a share of n_bytes that {model.name!r} can meet. Received "
                f"one that its smallest version exceeds by {excess:.0%}. Raise the "
                "budget, or lower `min_channels`."
            )
        low, high = smallest, 1.0
        for _ in range(N_BISECTIONS):
            middle = (low + high) / 2
            plan = plan_for(middle)
            if ratio(plan) <= 1:
                low, best = middle, plan
            else:
                high = middle
    return best


def _int8_size(model, path):
    """Export with noise as calibration data, which does not affect the size."""
    rng = np.random.default_rng(0)
    noise = [
        rng.normal(0, 1, (N_SAMPLES, *tensor.shape[1:])).astype("float32")
        for tensor in keras.tree.flatten(model.inputs)
    ]
    data = noise[0] if len(noise) == 1 else noise
    with warnings.catch_warnings():  # about the calibration, which does not matter
        warnings.simplefilter("ignore")
        export_tflite(model, path, representative_data=data)
    return path.stat().st_size
