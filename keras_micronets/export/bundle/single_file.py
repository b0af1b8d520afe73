"""Write one `.tflite` file of all members and their combination."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_micronets.edge.combine import check_rule, combine
from keras_micronets.edge.member import Member
from keras_micronets.edge.preprocessing import Preprocessing
from keras_micronets.edge.tasks import CLASS_TASKS
from keras_micronets.edge.tensors import map_inputs
from keras_micronets.export.atomic import write_atomically
from keras_micronets.export.bundle.tflite_graph import (
    TFLiteGraph,
    add_combination,
    add_predictions,
)
from keras_micronets.export.bundle.writer import BundleMember, common_task
from keras_micronets.export.tflite import check_path
from keras_micronets.export.workers import check_file

__all__ = ["write_single"]

#: LiteRT adds floats in another order than NumPy, which changes their rounding.
TOLERANCE = 1e-5
SAMPLES = 8
#: Operations that keep a state between two inputs.
_STATEFUL = ("VAR_HANDLE", "HASHTABLE", "CALL_ONCE")


def write_single(
    path: str | os.PathLike,
    members: Sequence[BundleMember],
    *,
    combination: str = "mean",
    weights: Sequence[float] | None = None,
    temperature: float = 1.0,
    preprocessing: Preprocessing | dict | None = None,
) -> Path:
    """Write one `.tflite` file that predicts as all members together.

    It is for runtimes that take one model only. The members' operations and constants
    are copied, so that their integers stay the same, bit for bit; equal constants are
    stored once. The rest is computed in `float32`: softmax for logits, scaling of
    rounded probabilities to a sum of one, the combination and its temperature. The file
    is run, and compared with `edge.combine` of its members, before it replaces an older
    one.

    The file has one input, `inputs`, or the named inputs of its members; one output,
    `probabilities` (`predictions` for numbers), of the shape of a member's predictions;
    and the signature `serving_default`. If all members quantise an input alike and it
    has no preprocessing, it takes the same integers. Otherwise it takes `float32`
    values, raw ones if there is preprocessing, and quantises them for each member.
    LiteRT's rounding of a value exactly between two steps may then differ from that of
    `edge.Member`.

    Args:
        path: Path of the file; must end in `.tflite`. An older file is replaced.
        members: At least one `BundleMember`, all of the same inputs, batch included,
            and one output shape, without control flow, variables or states.
        combination, weights: As for `write_bundle`.
        temperature, preprocessing: As for `write_bundle`; they become parts of the
            file.

    Returns:
        The path.

    Raises:
        ValueError: If the members do not fit together or cannot be put into one file,
            or if the file predicts otherwise than they do, as it does for integer
            outputs that are neither logits nor probabilities. Nothing is written then.

    Example:

    ```python
    report = keras_micronets.export_tflite(
        model, "small.tflite", representative_data=x_train
    )
    members = [keras_micronets.export.BundleMember("small", report.path)]
    keras_micronets.export.write_single("ensemble.tflite", members)
    ```
    """
    path = check_path(path)
    contents = [member.read() for member in members]
    pairs = zip(members, contents, strict=True)
    loaded = [member.load(content) for member, content in pairs]
    models = [schema.ModelT.InitFromPackedBuf(content) for content in contents]
    rule = {
        "rule": combination,
        "weights": weights,
        "temperature": float(temperature),
        "task": common_task(members),
    }
    preprocess = Preprocessing.of(preprocessing)
    _check_mergeable(loaded, models)
    check_rule(n_members=len(loaded), **rule)
    _check_computable(rule, len(loaded))
    preprocess.check(loaded[0].input_shape)
    content = _merge(loaded, models, preprocess, rule)
    check_file(content, "the single file")
    _compare(content, loaded, preprocess, rule)
    write_atomically(path, content)
    return path


def _merge(members, models, preprocess, rule):
    graph = TFLiteGraph()
    given, readings = _add_inputs(graph, members, models, preprocess)
    predictions = [
        add_predictions(
            graph,
            graph.merge(model, member.name, reading),
            scale=member.output.scale,
            dtype=member.output.dtype,
            from_logits=member.from_logits,
            task=member.task,
        )
        for member, model, reading in zip(members, models, readings, strict=True)
    ]
    name = "probabilities" if rule["task"] in CLASS_TASKS else "predictions"
    return graph.content(
        given,
        {name: add_combination(graph, predictions, **rule)},
        f"{rule['rule']} of {len(members)} members",
    )


def _add_inputs(graph, members, models, preprocess):
    """Return the inputs of the file by name, and what each member reads instead.

    The latter are tensors of the file by the index of the member's own.
    """
    given, readings = {}, [{} for _ in members]
    for name, one in _named(preprocess.for_inputs(members[0].input)).items():
        indices = [_named(member.tensor_indices)[name] for member in members]
        readers = [
            (f"{m.name}/{name}", _named(m.input)[name], model.subgraphs[0].tensors[i])
            for m, model, i in zip(members, models, indices, strict=True)
        ]
        given[name], read = _add_input(graph, name, readers, one)
        for reading, index, tensor in zip(readings, indices, read, strict=True):
            reading[index] = tensor
    return given, readings


def _add_input(graph, name, readers, preprocess):
    """Return an input of the file, and the tensor that each reader reads instead."""
    first = readers[0][2]
    is_plain = preprocess == Preprocessing()
    if is_plain and len({spec for _, spec, _ in readers}) == 1:
        x = graph.copy(first, name)
        return x, [x] * len(readers)
    given = x = graph.tensor(name, first.shape, signature=first.shapeSignature)
    if not is_plain:
        x = graph.add("SUB", x, graph.constant(np.float32(preprocess.mean)))
        x = graph.add("DIV", x, graph.constant(np.float32(preprocess.scale)))
    read = []
    for copied, spec, tensor in readers:
        if spec.scale:
            steps = graph.copy(tensor, copied)
            version = 2 if spec.dtype == "int16" else 1
            read.append(graph.add("QUANTIZE", x, output=steps, version=version))
        else:
            read.append(x)
    return given, read


def _named(value):
    """Return values of inputs by name; the one of most models is named `inputs`."""
    return value if isinstance(value, dict) else {"inputs": value}


def _compare(content, members, preprocess, rule):
    """Raise a `ValueError` unless the file predicts as its members do."""
    raw = preprocess.inverse(_samples(members))
    expected = combine(np.stack([m.predict(preprocess(raw)) for m in members]), **rule)
    predicted = Member(content, name="the single file").predict_raw(raw)
    difference = np.abs(predicted - expected).max()
    if not difference <= TOLERANCE * max(
        1.0, np.abs(expected).max()
    ):  # NaN compares as false
        raise ValueError(
            "Expected members whose outputs are probabilities, or logits marked by "
            "`from_logits`. Received: members "
            f"{[m.name for m in members]}, whose single file differs by "
            f"{difference:.2g} from their combination. Set `from_logits`, or export a "
            "bundle instead."
        )


def _samples(members):
    """Return random inputs in the members' range, none midway between two steps."""
    rng = np.random.default_rng(0)

    def draw(*specs):
        scales = [spec.scale for spec in specs if spec.scale]
        spread = 64 * min(scales, default=1 / 64)
        x = rng.normal(0, spread, (SAMPLES, *specs[0].shape)).astype("float32")
        for scale in scales:
            x[np.abs(x / scale % 1 - 0.5) < 0.01] = 0
        return x

    return map_inputs(draw, *(member.input for member in members))


def _check_mergeable(members: Sequence[Member], models: Sequence[Any]) -> None:
    """Raise a `ValueError` unless models can be merged into one file."""
    names = [member.name for member in members]
    if not names or len({*names}) != len(names):
        raise ValueError(
            f"Expected at least one member, and unique names. Received: {names}."
        )
    for member, model in zip(members, models, strict=True):
        _check_operations(member, model)
    shapes = {
        m.name: (_input_shape(m, model), m.output_shape)
        for m, model in zip(members, models, strict=True)
    }
    if any(shape != shapes[names[0]] for shape in shapes.values()) or (
        members[0].task in CLASS_TASKS and len(members[0].output_shape) != 1
    ):
        raise ValueError(
            "Expected members of one input shape, batch included, and of one output "
            f"shape, (samples, classes) for classes. Received: {shapes}."
        )


def _check_computable(rule, n_members):
    """Raise a `ValueError` for a median, which LiteRT cannot compute."""
    if rule["rule"] == "median" and n_members > 2:
        raise ValueError(
            "Expected a combination that LiteRT can compute in one file: no median of "
            f"more than two members. Received: combination='median', {n_members} "
            "members. Export a bundle, or combine by the mean."
        )


def _check_operations(member, model):
    codes = {max(x.builtinCode, x.deprecatedBuiltinCode) for x in model.operatorCodes}
    stateful = {getattr(schema.BuiltinOperator, name) for name in _STATEFUL}
    tensors, buffers = model.subgraphs[0].tensors, model.buffers
    checks = {
        "control flow (several graphs)": len(model.subgraphs) > 1,
        "variables": any(tensor.isVariable for tensor in tensors) or codes & stateful,
        "constants outside the graph": any(x.size for x in buffers)
        or any(tensor.externalBuffer for tensor in tensors)
        or any(x.largeCustomOptionsSize for x in model.subgraphs[0].operators),
    }
    ends = {"inputs": [*_named(member.input).values()], "outputs": [member.output]}
    for end, specs in ends.items():
        for spec in specs:
            is_unscaled = not spec.scale and spec.dtype != "float32"
            checks[f"{end} of {spec.dtype}"] = is_unscaled
    if obstacles := [name for name, present in checks.items() if present]:
        raise ValueError(
            "Expected members of operations and constants only, whose inputs and "
            "outputs are floats or quantised integers, to put into one file. "
            f"Received: {member.name!r}, with {', '.join(obstacles)}. Export a bundle."
        )


def _input_shape(member, model):
    tensors = model.subgraphs[0].tensors
    return map_inputs(lambda index: _shape(tensors[index]), member.tensor_indices)


def _shape(tensor):
    signature = tensor.shapeSignature
    return tuple(int(n) for n in (tensor.shape if signature is None else signature))
