"""Build a `.tflite` file: its tensors, operations and the rules of `edge.combine`."""

from collections.abc import Callable, Sequence
from copy import copy
from functools import partial, reduce
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_micronets.edge.combine import EPSILON, MIN_PROBABILITY
from keras_micronets.edge.operators import pack
from keras_micronets.edge.tasks import PER_LABEL

__all__ = ["TFLiteGraph", "add_combination", "add_predictions"]

#: Operations whose options are not named after them, unlike ARG_MAX's options.
_OPTIONS = {"MAXIMUM": "MaximumMinimumOptions", "SUM": "ReducerOptions"}


class TFLiteGraph:
    """Build the tensors and operations of a `.tflite` file with one graph.

    Tensors are referred to by their index.

    Attributes:
        tensors: The tensors, as LiteRT's schema defines them.

    Example:

    ```python
    from keras_micronets.export.bundle.tflite_graph import TFLiteGraph

    graph = TFLiteGraph()
    inputs = graph.tensor("inputs", (1, 3))
    doubled = graph.add("MUL", inputs, graph.constant(np.float32(2)))
    content = graph.content({"x": inputs}, {"doubled": doubled}, "doubles")
    ```
    """

    def __init__(self) -> None:
        self.tensors: list[Any] = []
        self._operators = []
        self._codes = []
        self._buffers = [schema.BufferT()]  # the first one is empty by definition
        self._buffer_indices = {}
        self._constants = {}

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        *,
        dtype: str = "float32",
        signature: Sequence[int] | None = None,
        buffer: int = 0,
    ) -> int:
        """Add a tensor and return its index; the signature has -1 for open sizes."""
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.shapeSignature = name, [*shape], signature
        tensor.type, tensor.buffer = getattr(schema.TensorType, dtype.upper()), buffer
        tensor.hasRank = True
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def constant(self, values: Any) -> int:
        """Add a constant, unless there is an equal one, and return its index."""
        data = np.asarray(values)
        key = data.tobytes(), data.dtype.name, data.shape
        if key not in self._constants:
            name, buffer = f"constant:{len(self.tensors)}", self._buffer(key[0])
            self._constants[key] = self.tensor(
                name, data.shape, dtype=data.dtype.name, buffer=buffer
            )
        return self._constants[key]

    def add(
        self,
        operation: str,
        *inputs: int,
        output: int | None = None,
        shape: Callable | None = None,
        dtype: str = "float32",
        version: int = 1,
        **options: Any,
    ) -> int:
        """Add an operation, such as `"ADD"`, and return the index of its output.

        Without an output, a tensor of this dtype is added; `shape`, if given, computes
        its shape from the first input's shape. `options` are the operation's options.
        """
        operator = schema.OperatorT()
        operator.opcodeIndex = self._code(_builtin(operation, version))
        operator.inputs = [*inputs]
        if output is None:
            output = self._like(self.tensors[inputs[0]], operation, shape, dtype)
        operator.outputs = [output]
        named = operation.title().replace("_", "") + "Options"
        name = _OPTIONS.get(operation, named)
        if hasattr(schema, f"{name}T"):  # LOG has none
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, name)
            operator.builtinOptions = getattr(schema, f"{name}T")()
            vars(operator.builtinOptions).update(options)
        self._operators.append(operator)
        return operator.outputs[0]

    def copy(self, tensor: schema.TensorT, name: str, data: bytes = b"") -> int:
        """Add a copy of a tensor of another file, and return its index."""
        new = copy(tensor)
        new.name, new.buffer = name, self._buffer(data)
        self.tensors.append(new)
        return len(self.tensors) - 1

    def merge(self, model: schema.ModelT, name: str, inputs: dict[int, int]) -> int:
        """Add all operations of a model of one graph, and return its output's index.

        `inputs` are the tensors that replace the model's inputs, by the index of these
        in the model; the other tensors get a prefix, `name`.
        """
        graph = model.subgraphs[0]
        indices = {-1: -1, **inputs}  # -1: an optional input, absent
        for i, tensor in enumerate(graph.tensors):
            if i not in indices:
                data = _bytes(model.buffers[tensor.buffer])
                prefixed = f"{name}/{(tensor.name or b'').decode()}"
                indices[i] = self.copy(tensor, prefixed, data)
        codes = [self._code(code) for code in model.operatorCodes]
        for old in graph.operators:
            operator = copy(old)
            operator.opcodeIndex = codes[old.opcodeIndex]
            operator.debugMetadataIndex = -1  # the metadata are not copied
            for role in ("inputs", "outputs", "intermediates"):
                if (tensors := getattr(old, role)) is not None:
                    setattr(operator, role, [indices[int(i)] for i in tensors])
            self._operators.append(operator)
        return indices[int(graph.outputs[0])]

    def content(
        self, inputs: dict[str, int], outputs: dict[str, int], description: str
    ) -> bytes:
        """Return the bytes of the file, given its inputs and outputs by name."""
        model = schema.ModelT()
        model.version, model.description = 3, description
        model.buffers, model.operatorCodes = self._buffers, self._codes
        model.subgraphs = [self._subgraph(inputs, outputs)]
        model.signatureDefs = [_signature(inputs, outputs)]
        for name, index in [*inputs.items(), *outputs.items()]:
            self.tensors[index].name = name
        return pack(model, sum(map(len, map(_bytes, self._buffers))))

    def _subgraph(self, inputs, outputs):
        graph = schema.SubGraphT()
        graph.tensors, graph.operators = self.tensors, self._operators
        graph.inputs, graph.outputs = [*inputs.values()], [*outputs.values()]
        graph.name = "main"
        return graph

    def _like(self, first, operation, shape, dtype):
        sizes = [first.shape, first.shapeSignature]
        if shape is not None:
            sizes = [size if size is None else shape(size) for size in sizes]
        name = f"{operation.lower()}:{len(self.tensors)}"
        return self.tensor(name, sizes[0], dtype=dtype, signature=sizes[1])

    def _buffer(self, data):
        """Return the index of the buffer with these bytes, added if it is new."""
        if data and data not in self._buffer_indices:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data, "uint8")
            self._buffers.append(buffer)
            self._buffer_indices[data] = len(self._buffers) - 1
        return self._buffer_indices[data] if data else 0

    def _code(self, code):
        known = [vars(other) for other in self._codes]
        if vars(code) in known:
            return known.index(vars(code))
        self._codes.append(code)
        return len(known)


def _builtin(operation, version):
    code = schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, operation)
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)  # for old readers
    code.version = version
    return code


def _bytes(buffer):
    return b"" if buffer.data is None else np.asarray(buffer.data, "uint8").tobytes()


def _signature(inputs, outputs):
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = "serving_default", 0
    signature.inputs = [_named(*item) for item in inputs.items()]
    signature.outputs = [_named(*item) for item in outputs.items()]
    return signature


def _named(name, index):
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, index
    return entry


def add_predictions(
    graph: TFLiteGraph,
    output: int,
    *,
    scale: float,
    dtype: str,
    from_logits: bool,
    task: str = "multiclass",
) -> int:
    """Add operations that turn a member's output into predictions.

    They compute what `edge.Member.predict` does; `scale` is 0.0 for float outputs.
    """
    if scale:
        version = {"uint8": 1, "int8": 2}.get(dtype, 3)
        output = graph.add("DEQUANTIZE", output, version=version)
    if task in PER_LABEL and from_logits:
        return graph.add("LOGISTIC", output)
    if task != "multiclass":
        return output
    if from_logits:
        return graph.add("SOFTMAX", output, beta=1.0)
    if not scale:
        return output
    axis = graph.constant(np.array([-1], "int32"))
    total = graph.add("SUM", output, axis, shape=_one_column, keepDims=True)
    # Avoids a division by zero: a sum is zero, or one step at least.
    total = graph.add("MAXIMUM", total, graph.constant(np.float32(scale)))
    return graph.add("DIV", output, total)


def add_combination(
    graph: TFLiteGraph,
    members: Sequence[int],
    *,
    rule: str,
    weights: Sequence[float] | None,
    temperature: float = 1.0,
    task: str = "multiclass",
) -> int:
    """Add the combination of the members' predictions, and return its index.

    The median is that of at most two members, their mean.
    """
    per_label = task in PER_LABEL
    if rule == "weights":
        combined = _weighted(graph, members, weights)
    elif rule == "logit":
        combined = (_mean_log_odds if per_label else _mean_logit)(graph, members)
    elif rule == "vote":
        combined = _vote(graph, members, _above_half if per_label else _one_hot)
    else:
        combined = _mean(graph, members)
    if temperature == 1:
        return combined
    if per_label:
        odds = _log_odds(graph, combined, EPSILON)
        factor = graph.constant(np.float32(1 / temperature))
        return graph.add("LOGISTIC", graph.add("MUL", odds, factor))
    return _scaled(graph, combined, temperature)


def _scaled(graph, probabilities, temperature):
    logits = _logarithms(graph, probabilities, EPSILON)
    factor = graph.constant(np.float32(1 / temperature))
    return graph.add("SOFTMAX", graph.add("MUL", logits, factor), beta=1.0)


def _logarithms(graph, probabilities, lowest):
    raised = graph.add("MAXIMUM", probabilities, graph.constant(np.float32(lowest)))
    return graph.add("LOG", raised)


def _mean(graph, members):
    total = reduce(partial(graph.add, "ADD"), members)
    return graph.add("DIV", total, graph.constant(np.float32(len(members))))


def _weighted(graph, members, weights):
    weights = np.asarray(weights, "float32")
    shares = weights / weights.sum()
    terms = [
        graph.add("MUL", member, graph.constant(share))
        for member, share in zip(members, shares, strict=True)
    ]
    return reduce(partial(graph.add, "ADD"), terms)


def _mean_logit(graph, members):
    logits = [_logarithms(graph, member, MIN_PROBABILITY) for member in members]
    return graph.add("SOFTMAX", _mean(graph, logits), beta=1.0)


def _mean_log_odds(graph, members):
    odds = [_log_odds(graph, member, MIN_PROBABILITY) for member in members]
    return graph.add("LOGISTIC", _mean(graph, odds))


def _log_odds(graph, probability, lowest):
    """Add the logarithm of `p / (1 - p)`, both raised to `lowest`."""
    minus_one, one = (graph.constant(np.float32(value)) for value in (-1, 1))
    other = graph.add("ADD", graph.add("MUL", probability, minus_one), one)
    logarithms = [_logarithms(graph, p, lowest) for p in (probability, other)]
    return graph.add("SUB", *logarithms)


def _above_half(graph, member):
    """Add a member's vote for each label: one if it is more probable than not."""
    excess = graph.add("SUB", member, graph.constant(np.float32(0.5)))
    excess = graph.add("MAXIMUM", excess, graph.constant(np.float32(0)))
    return graph.add("CEIL", excess)


def _vote(graph, members, vote):
    share = _mean(graph, [vote(graph, member) for member in members])
    tie_break = np.float32(0.5 / len(members))
    mean = graph.add("MUL", _mean(graph, members), graph.constant(tie_break))
    total = graph.add("ADD", share, mean)
    return graph.add("DIV", total, graph.constant(1 + tie_break))


def _one_hot(graph, member):
    """Add a member's vote: one for its most probable class, zero for the others."""
    classes = int(graph.tensors[member].shape[-1])
    best = graph.add(
        "ARG_MAX",
        member,
        graph.constant(np.int32(-1)),
        dtype="int32",
        shape=lambda size: size[:-1],
        outputType=schema.TensorType.INT32,
    )
    depth = graph.constant(np.int32(classes))
    on, off = graph.constant(np.float32(1)), graph.constant(np.float32(0))
    return graph.add(
        "ONE_HOT", best, depth, on, off, shape=lambda size: [*size, classes], axis=-1
    )


def _one_column(size):
    return [*size[:-1], 1]
