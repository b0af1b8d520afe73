"""Budgets that no count tells: the size of an int8 file, and its time here."""

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from keras_micronets.channels.cut import cut_by_graph
from keras_micronets.channels.graph import ChannelGraph
from keras_micronets.channels.planning import Plan
from keras_micronets.edge.bench import interleaved_medians
from keras_micronets.export.tflite import export_tflite
from keras_micronets.export.tflite_model import TFLiteModel

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
                f"{over[worst] - 1:.0%}. Allow more, or lower `least`."
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
