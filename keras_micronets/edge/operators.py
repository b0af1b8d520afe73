"""Measure the times of single operators, from which those of models are predicted.

Imported where it is used: it needs `flatbuffers`, which comes with ai-edge-litert.
"""

import json
import os
import platform
import time
from collections.abc import Callable
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from .member import load_interpreter

__all__ = ["COLUMNS", "OPERATORS", "pack", "time_operators"]

# Sizes on which times depend: positions of the tensors read and written, positions of
# the kernel, channels that a written value is computed from, channels written.
COLUMNS = ("read_positions", "positions", "taps", "inputs", "outputs")
# How many sizes of each type are measured, and the name of its options.
OPERATORS: dict[str, tuple[int, str]] = {
    "CONV_2D": (360, "Conv2DOptions"),
    "DEPTHWISE_CONV_2D": (140, "DepthwiseConv2DOptions"),
    "FULLY_CONNECTED": (60, "FullyConnectedOptions"),
    "MAX_POOL_2D": (25, "Pool2DOptions"),
    "AVERAGE_POOL_2D": (25, "Pool2DOptions"),
    "MEAN": (25, "ReducerOptions"),
    "ADD": (25, "AddOptions"),
    "MUL": (25, "MulOptions"),
    "LOGISTIC": (25, ""),
    "HARD_SWISH": (25, "HardSwishOptions"),
}
SIDES = (1, 2, 3, 4, 6, 7, 8, 12, 14, 16, 24, 28, 32, 48, 56, 64, 96, 112)
WIDTHS = (1, 3, 4, 8, 12, 16, 20, 24, 32, 44, 48, 64, 96, 128, 192, 256, 384, 512)
KERNELS = {"CONV_2D": (1, 1, 1, 3, 3, 5, 7), "DEPTHWISE_CONV_2D": (3, 3, 3, 5)}
MAX_MACS, MAX_VALUES = 40e6, 5e5
# Seconds that one measurement takes at least, in as many runs as that needs.
SHORTEST = 60e-6
_ALIGNMENT = 16  # LiteRT maps constants from the file; Python's builder ignores it


def time_operators(path: str | os.PathLike, *, repeats: int = 20) -> None:
    """Measure the times of int8 operators on this device, and write them to a file.

    `channels.plan` reads the file, to plan networks for this device on any machine. It
    has 735 types and sizes of operators, which are run in turns, on one thread. On a
    workstation this takes some seconds.

    Args:
        path: The `.json` file to write. An existing one is replaced.
        repeats: Number of measurements of each operator, of which the file has the
            medians. Defaults to `20`.

    Raises:
        ValueError: If `repeats` is less than one.

    Example:

    ```python
    keras_micronets.edge.time_operators("operators.json", repeats=1)
    ```
    """
    if repeats < 1:
        raise ValueError(f"Expected at least one repeat. Received: repeats={repeats}.")
    rows, tasks = [], []
    for row, content in _operators(np.random.default_rng(0)):
        interpreter = load_interpreter(content, row[0])
        for detail in interpreter.get_input_details():
            x = np.zeros(detail["shape"], detail["dtype"])
            interpreter.set_tensor(detail["index"], x)
        rows.append(row)
        tasks.append(interpreter.invoke)
    runs = [(task, 1 + int(SHORTEST / _seconds(task, 2))) for task in tasks]
    times = [[_seconds(*run) for run in runs] for _ in range(repeats)]
    milliseconds = (1000 * np.median(times, axis=0)).round(7).tolist()
    table = {
        "processor": platform.machine(),
        "columns": ["operator", *COLUMNS, "milliseconds"],
        "rows": [[*row, ms] for row, ms in zip(rows, milliseconds, strict=True)],
    }
    partial = f"{os.fspath(path)}.{os.getpid()}"
    with open(partial, "w", encoding="utf-8") as file:
        file.write(json.dumps(table).replace("], [", "],\n["))
    os.replace(partial, path)


def _seconds(task: Callable[[], object], n_runs: int) -> float:
    """Return the time of one run, after one that fills the caches."""
    task()
    start = time.perf_counter()
    for _ in range(n_runs):
        task()
    return (time.perf_counter() - start) / n_runs


def _operators(rng):
    """Yield the type and the sizes of operators, and a file of each."""

    def choose(choices):
        return int(rng.choice(choices))

    for name, (number, _) in OPERATORS.items():
        sums = name in ("CONV_2D", "FULLY_CONNECTED")
        while number:
            side, kernel = choose(SIDES), choose(KERNELS.get(name, (1,)))
            stride = choose((1, 1, 2)) if name in KERNELS else 1
            inputs, outputs = choose(WIDTHS), choose(WIDTHS)
            if name == "FULLY_CONNECTED":
                side, inputs = 1, inputs * choose((1, 4, 16))
            elif "POOL" in name:
                side, kernel, stride = side + 1, choose((2, 3)), 2
            outputs = outputs if sums else inputs
            after = 1 if name == "MEAN" else -(-side // stride)
            n = inputs if sums else 1
            values = max(side**2 * inputs, after**2 * outputs)
            if values < MAX_VALUES and (after * kernel) ** 2 * n * outputs < MAX_MACS:
                row = [name, side**2, after**2, kernel**2, n, outputs]
                yield row, _file(name, side, after, inputs, outputs, kernel, stride)
                number -= 1


def _file(name, side, after, inputs, outputs, kernel, stride):
    """Return a `.tflite` file of one operator."""
    tensors, buffers = [], [schema.BufferT()]

    def tensor(*shape, data=None, scale: Any = 0.05, zero_point=0, axis=0):
        if data is not None:
            buffers.append(_new("Buffer", data=data.view("uint8").ravel()))
        quantization = _new(
            "QuantizationParameters",
            scale=np.atleast_1d(scale).astype("float32"),
            zeroPoint=np.full(np.size(scale), zero_point, "int64"),
            quantizedDimension=axis,
        )
        fields = {
            "type": 9 if data is None or data.dtype == "int8" else 2,  # INT8, INT32
            "buffer": 0 if data is None else len(buffers) - 1,
            "quantization": None if scale is None else quantization,
        }
        tensors.append(_new("Tensor", shape=shape, name=f"{len(tensors)}", **fields))
        return len(tensors) - 1

    n_inputs = 2 if name in ("ADD", "MUL") else 1
    read = [tensor(1, side, side, inputs) for _ in range(n_inputs)]
    kernels = {
        "CONV_2D": (outputs, kernel, kernel, inputs),
        "DEPTHWISE_CONV_2D": (1, kernel, kernel, outputs),
        "FULLY_CONNECTED": (outputs, inputs),
    }
    constants = []
    if shape := kernels.get(name):
        scale, axis = np.full(outputs, 0.01), 3 if "DEPTHWISE" in name else 0
        constants = [
            tensor(*shape, data=np.ones(shape, "int8"), scale=scale, axis=axis),
            tensor(outputs, data=np.zeros(outputs, "int32"), scale=scale / 20),
        ]
    elif name == "MEAN":
        constants = [tensor(2, data=np.array([1, 2], "int32"), scale=None)]
    scales = {"scale": 1 / 256, "zero_point": -128} if name == "LOGISTIC" else {}
    written = [tensor(1, after, after, outputs, **scales)]
    operator = _new("Operator", inputs=read + constants, outputs=written)
    if options := OPERATORS[name][1]:
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, options)
        operator.builtinOptions = _new(options)
        values = {"stride": stride, "filter": kernel, "dilation": 1, "depth": 1}
        for field in vars(operator.builtinOptions):
            for prefix, value in values.items():
                if field.startswith(prefix):
                    setattr(operator.builtinOptions, field, value)
    graph = _new("SubGraph", tensors=tensors, operators=[operator])
    graph.inputs, graph.outputs = read, written
    code = getattr(schema.BuiltinOperator, name)
    codes = _new("OperatorCode", builtinCode=code, deprecatedBuiltinCode=code)
    codes.version = 1 if name == "HARD_SWISH" else 3
    parts = {"operatorCodes": [codes], "subgraphs": [graph], "buffers": buffers}
    return pack(_new("Model", version=3, **parts))


def _new(table, /, **fields):
    item = getattr(schema, f"{table}T")()
    vars(item).update(fields)
    return item


def pack(model: schema.ModelT, size: int = 1024) -> bytes:
    """Return the bytes of a `.tflite` file; `size` is an estimate of their number."""
    builder = _AlignedBuilder(size)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


class _AlignedBuilder(flatbuffers.Builder):
    def StartVector(self, elemSize, numElems, alignment):  # noqa: N802
        is_data = elemSize == 1
        alignment = max(alignment, _ALIGNMENT) if is_data else alignment
        return super().StartVector(elemSize, numElems, alignment)
