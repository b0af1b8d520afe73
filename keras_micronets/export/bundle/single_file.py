"""One `.tflite` file of all members and their combination."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_micronets.edge.combine import check_rule, combine
from keras_micronets.edge.member import Member
from keras_micronets.edge.preprocessing import Preprocessing
from keras_micronets.export.atomic import write_atomically
from keras_micronets.export.bundle.member import BundleMember
from keras_micronets.export.bundle.tflite_graph import (
    TFLiteGraph,
    add_combination,
    add_probabilities,
)
from keras_micronets.export.tflite import check_path

#: Sums of floats are rounded in another order than NumPy rounds them.
TOLERANCE = 1e-5
SAMPLES = 8


def write_single(
    path: str | os.PathLike,
    members: Sequence[BundleMember],
    *,
    combination: str = "mean",
    weights: Sequence[float] | None = None,
    preprocessing: Preprocessing | dict | None = None,
) -> Path:
    """Write one `.tflite` file that answers as all members together.

    It is for runtimes that take just one model. The members' operations and constants
    are taken as they are, so that their integers stay the same, bit for bit; equal
    constants are stored once. What follows them is in `float32`: softmax for logits,
    rows of rounded probabilities scaled to sum to one, and the combination. The file
    is run, and compared with `edge.combine` of its members, before it takes its place.

    The file has one input, `inputs`, and one output, `probabilities`, of shape
    `(samples, classes)`, and the signature `serving_default`. If all members quantise
    their inputs alike and there is no preprocessing, the file takes the same integers.
    Otherwise it takes `float32`, raw values where there is preprocessing, and
    quantises them for each member. LiteRT rounds there as it pleases: a value exactly
    between two steps may go to another one than `edge.Member` chooses.

    Args:
        path: Where to write; must end in `.tflite`. An older file is replaced.
        members: At least one `BundleMember`; all of one input and output shape and
            of one batch, without control flow, variables or states.
        combination, weights: As for `write_bundle`.
        preprocessing: As for `write_bundle`; it goes into the file.

    Returns:
        The path.

    Raises:
        ValueError: If the members do not go together, or cannot be put into one file,
            or if this file answers otherwise than they do, as it does for integers
            that are neither logits nor probabilities. Nothing is written then.

    Example:

    ```python
    members = [BundleMember("a", "a.tflite"), BundleMember("b", "b.tflite")]
    write_single("ensemble.tflite", members)
    ```
    """
    path = check_path(path)
    contents = [member.read() for member in members]
    loaded = [
        Member(content, name=member.name, from_logits=member.from_logits)
        for content, member in zip(contents, members, strict=True)
    ]
    models = [schema.ModelT.InitFromPackedBuf(content) for content in contents]
    how = {"rule": combination, "weights": weights}
    preprocess = Preprocessing.of(preprocessing)
    check_mergeable(loaded, models)
    check_rule(combination, weights, len(loaded))
    preprocess.check(loaded[0].input_shape)
    content = _merged(loaded, models, preprocess, how)
    _compare(content, loaded, preprocess, how)
    write_atomically(path, content)
    return path


def _merged(members, models, preprocess, how):
    graph = TFLiteGraph()
    given, inputs = _add_inputs(graph, members, models, preprocess)
    probabilities = [
        add_probabilities(
            graph,
            graph.merge(model, member.name, x),
            scale=member.output_quantization[0],
            dtype=member.output_dtype,
            from_logits=member.from_logits,
        )
        for member, model, x in zip(members, models, inputs, strict=True)
    ]
    return graph.content(
        description=f"{how['rule']} of {len(members)} members",
        inputs=given,
        probabilities=add_combination(graph, probabilities, **how),
    )


def _add_inputs(graph, members, models, preprocess):
    """Return the input of the file, and what each member takes in its place."""
    own = [input_tensor(model) for model in models]
    is_plain = preprocess == Preprocessing()
    if is_plain and len({(m.input_dtype, m.input_quantization) for m in members}) == 1:
        x = graph.copy(own[0], "inputs")
        return x, [x] * len(members)
    given = x = graph.tensor("inputs", own[0].shape, signature=own[0].shapeSignature)
    if not is_plain:
        x = graph.add("SUB", x, graph.constant(np.float32(preprocess.mean)))
        x = graph.add("DIV", x, graph.constant(np.float32(preprocess.scale)))
    inputs = []
    for member, tensor in zip(members, own, strict=True):
        if member.input_quantization[0]:
            steps = graph.copy(tensor, f"{member.name}/{tensor.name.decode()}")
            version = 2 if member.input_dtype == "int16" else 1
            inputs.append(graph.add("QUANTIZE", x, output=steps, version=version))
        else:
            inputs.append(x)
    return given, inputs


def _compare(content, members, preprocess, how):
    """Raise a `ValueError` unless the file answers as its members do."""
    x = _samples(members)
    raw = x * np.float32(preprocess.scale) + np.float32(preprocess.mean)
    expected = combine(np.stack([m.predict(preprocess(raw)) for m in members]), **how)
    answers = Member(content, name="the single file").predict_raw(raw)
    difference = np.abs(answers - expected).max()
    if not difference <= TOLERANCE:  # NaN is none
        raise ValueError(
            "Expected members that put out logits, with `from_logits`, or "
            "probabilities, so that one file can answer as they do together. "
            f"Received: {[m.name for m in members]}, and a difference of "
            f"{difference:.2g}. Export a bundle."
        )


def _samples(members):
    """Return random inputs in the members' range, none between two of their steps."""
    scales = [m.input_quantization[0] for m in members if m.input_quantization[0]]
    shape = (SAMPLES, *members[0].input_shape)
    spread = 64 * min(scales, default=1 / 64)
    x = np.random.default_rng(0).normal(0, spread, shape).astype("float32")
    for scale in scales:
        x[np.abs(x / scale % 1 - 0.5) < 0.01] = 0
    return x


#: Operations that remember something from one input to the next.
_STATEFUL = ("VAR_HANDLE", "HASHTABLE", "CALL_ONCE")


def check_mergeable(members: Sequence[Member], models: Sequence[schema.ModelT]) -> None:
    """Raise a `ValueError` unless models can go into one file.

    Args:
        members: The models, as LiteRT runs them.
        models: The same, as their files hold them.
    """
    names = [member.name for member in members]
    if not names or len({*names}) != len(names):
        raise ValueError(f"Expected members, each of its own name. Received: {names}.")
    for member, model in zip(members, models, strict=True):
        _check_alone(member, model)
    kinds = {
        m.name: (_sizes(input_tensor(model)), m.output_shape)
        for m, model in zip(members, models, strict=True)
    }
    if len({*kinds.values()}) != 1 or len(members[0].output_shape) != 1:
        raise ValueError(
            "Expected members of one input shape, batch included, and of outputs "
            f"(samples, classes). Received: {kinds}."
        )


def input_tensor(model: schema.ModelT) -> schema.TensorT:
    """Return the input of a model."""
    graph = model.subgraphs[0]
    return graph.tensors[graph.inputs[0]]


def _check_alone(member, model):
    codes = {max(x.builtinCode, x.deprecatedBuiltinCode) for x in model.operatorCodes}
    stateful = {getattr(schema.BuiltinOperator, name) for name in _STATEFUL}
    tensors, buffers = model.subgraphs[0].tensors, model.buffers
    steps = member.input_quantization[0]
    wrong = {
        "control flow (several graphs)": len(model.subgraphs) > 1,
        "variables": any(tensor.isVariable for tensor in tensors) or codes & stateful,
        "constants outside the graph": any(x.size for x in buffers)
        or any(tensor.externalBuffer for tensor in tensors)
        or any(x.largeCustomOptionsSize for x in model.subgraphs[0].operators),
        f"inputs of {member.input_dtype}": not steps
        and member.input_dtype != "float32",
        f"outputs of {member.output_dtype}": not member.output_quantization[0]
        and member.output_dtype != "float32",
    }
    if found := [what for what, is_so in wrong.items() if is_so]:
        raise ValueError(
            "Expected members of operations and constants alone, from and to floats or "
            f"quantised integers, to put into one file. Received: {member.name!r}, "
            f"with {', '.join(found)}. Export a bundle."
        )


def _sizes(tensor):
    signature = tensor.shapeSignature
    return tuple(int(n) for n in (tensor.shape if signature is None else signature))
