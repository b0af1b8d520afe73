"""The rules of `edge.combine`, as operations of a `.tflite` file."""

from collections.abc import Sequence
from copy import copy
from functools import partial, reduce

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_micronets.edge.combine import MIN_PROBABILITY
from keras_micronets.export.flatbuffer import pack

#: The options of the operations that are added here; others have none.
_OPTIONS = {
    "ADD": schema.AddOptionsT,
    "ARG_MAX": schema.ArgMaxOptionsT,
    "DEQUANTIZE": schema.DequantizeOptionsT,
    "DIV": schema.DivOptionsT,
    "MAXIMUM": schema.MaximumMinimumOptionsT,
    "MUL": schema.MulOptionsT,
    "ONE_HOT": schema.OneHotOptionsT,
    "QUANTIZE": schema.QuantizeOptionsT,
    "SOFTMAX": schema.SoftmaxOptionsT,
    "SUB": schema.SubOptionsT,
    "SUM": schema.ReducerOptionsT,
}


class TFLiteGraph:
    """A `.tflite` file in the making: the tensors and operations of one graph.

    Tensors are numbers. What an operation puts out is `float32`, and of the shape of
    its first input, unless said otherwise.

    Attributes:
        tensors: The tensors, as LiteRT's schema has them.

    Example:

    ```python
    graph = TFLiteGraph()
    x = graph.tensor("x", (1, 3))
    y = graph.add("MUL", x, graph.constant(np.float32(2)))
    content = graph.content(x=x, y=y)
    ```
    """

    def __init__(self):
        self.tensors = []
        self._operators = []
        self._codes = []
        self._buffers = [schema.BufferT()]  # the first one is empty by definition
        self._numbers = {}
        self._constants = {}

    def tensor(self, name, shape, *, dtype="float32", signature=None, buffer=0) -> int:
        """Return a new tensor.

        Args:
            name: Its name, unlike any other's.
            shape: Its shape.
            dtype: Name of a NumPy dtype. Defaults to `"float32"`.
            signature: Its shape with -1 for open sizes. Defaults to `None`, none.
            buffer: Number of its bytes. Defaults to `0`, none.
        """
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.shapeSignature = name, [*shape], signature
        tensor.type, tensor.buffer = getattr(schema.TensorType, dtype.upper()), buffer
        tensor.hasRank = True
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def constant(self, values: np.ndarray) -> int:
        """Return a tensor of constants; equal ones are one."""
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
        kind,
        *inputs,
        output=None,
        shape=None,
        dtype="float32",
        version=1,
        **options,
    ) -> int:
        """Add an operation and return what it puts out.

        Args:
            kind: Name of a built-in operation, `"ADD"` for example.
            *inputs: Its tensors.
            output: Tensor that it writes to. Defaults to `None`, a new one.
            shape: Function from the shape of the first input to that of the output.
                Defaults to `None`, the same.
            dtype: Dtype of the new output. Defaults to `"float32"`.
            version: Version of the operation. Defaults to `1`.
            **options: Attributes of its options.
        """
        operator = schema.OperatorT()
        operator.opcodeIndex = self._code(_builtin(kind, version))
        operator.inputs = [*inputs]
        if output is None:
            output = self._like(self.tensors[inputs[0]], kind, shape, dtype)
        operator.outputs = [output]
        if kind in _OPTIONS:
            name = _OPTIONS[kind].__name__.removesuffix("T")
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, name)
            operator.builtinOptions = _OPTIONS[kind]()
            vars(operator.builtinOptions).update(options)
        self._operators.append(operator)
        return operator.outputs[0]

    def copy(self, tensor: schema.TensorT, name: str, data: bytes = b"") -> int:
        """Return a new tensor like that of another file, with the bytes given."""
        new = copy(tensor)
        new.name, new.buffer = name, self._buffer(data)
        self.tensors.append(new)
        return len(self.tensors) - 1

    def merge(self, model: schema.ModelT, name: str, x: int) -> int:
        """Add all that a model of one graph does, and return what it puts out.

        Args:
            model: What a `.tflite` file holds.
            name: Its name, before those of its tensors.
            x: Tensor that takes the place of its input.
        """
        graph = model.subgraphs[0]
        numbers = {-1: -1, int(graph.inputs[0]): x}  # -1: an input left out
        for i, tensor in enumerate(graph.tensors):
            if i not in numbers:
                data = _bytes(model.buffers[tensor.buffer])
                own_name = f"{name}/{(tensor.name or b'').decode()}"
                numbers[i] = self.copy(tensor, own_name, data)
        codes = [self._code(code) for code in model.operatorCodes]
        for old in graph.operators:
            operator = copy(old)
            operator.opcodeIndex = codes[old.opcodeIndex]
            operator.debugMetadataIndex = -1  # of metadata that stay behind
            for end in ("inputs", "outputs", "intermediates"):
                if (indices := getattr(old, end)) is not None:
                    setattr(operator, end, [numbers[int(i)] for i in indices])
            self._operators.append(operator)
        return numbers[int(graph.outputs[0])]

    def content(self, *, description: str, **ends: int) -> bytes:
        """Return the bytes of the file.

        Args:
            description: What it is, in a line.
            **ends: The input and the output, under the names that they get.
        """
        model = schema.ModelT()
        model.version, model.description = 3, description
        model.buffers, model.operatorCodes = self._buffers, self._codes
        model.subgraphs = [self._subgraph(*ends.values())]
        model.signatureDefs = [_signature(*ends.items())]
        for name, index in ends.items():
            self.tensors[index].name = name
        return pack(model, sum(map(len, map(_bytes, self._buffers))))

    def _subgraph(self, x, y):
        graph = schema.SubGraphT()
        graph.tensors, graph.operators = self.tensors, self._operators
        graph.inputs, graph.outputs, graph.name = [x], [y], "main"
        return graph

    def _like(self, first, kind, shape, dtype):
        sizes = [first.shape, first.shapeSignature]
        if shape is not None:
            sizes = [size if size is None else shape(size) for size in sizes]
        name = f"{kind.lower()}:{len(self.tensors)}"
        return self.tensor(name, sizes[0], dtype=dtype, signature=sizes[1])

    def _buffer(self, data):
        """Return the number of a buffer of these bytes; equal ones are one."""
        if data and data not in self._numbers:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data, "uint8")
            self._buffers.append(buffer)
            self._numbers[data] = len(self._buffers) - 1
        return self._numbers[data] if data else 0

    def _code(self, code):
        known = [vars(other) for other in self._codes]
        if vars(code) in known:
            return known.index(vars(code))
        self._codes.append(code)
        return len(known)


def _builtin(kind, version):
    code = schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, kind)
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)  # for old readers
    code.version = version
    return code


def _bytes(buffer):
    return b"" if buffer.data is None else np.asarray(buffer.data, "uint8").tobytes()


def _signature(x, y):
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = "serving_default", 0
    signature.inputs, signature.outputs = [_named(*x)], [_named(*y)]
    return signature


def _named(name, index):
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, index
    return entry


def add_probabilities(
    graph: TFLiteGraph, output: int, *, scale: float, dtype: str, from_logits: bool
) -> int:
    """Add what makes a member's output probabilities, as `edge.Member` does.

    Args:
        graph: The graph.
        output: What the member puts out.
        scale: Real value of one of its steps; `0.0` for floats.
        dtype: Its dtype.
        from_logits: Whether these are logits.

    Returns:
        The tensor of the probabilities, `float32`.
    """
    if scale:
        version = {"uint8": 1, "int8": 2}.get(dtype, 3)
        output = graph.add("DEQUANTIZE", output, version=version)
    if from_logits:
        return graph.add("SOFTMAX", output, beta=1.0)
    if not scale:
        return output
    axis = graph.constant(np.int32([-1]))
    total = graph.add("SUM", output, axis, shape=_one_column, keepDims=True)
    # No division by zero: a sum is none, or one step at least.
    total = graph.add("MAXIMUM", total, graph.constant(np.float32(scale)))
    return graph.add("DIV", output, total)


def add_combination(
    graph: TFLiteGraph,
    members: Sequence[int],
    *,
    rule: str,
    weights: Sequence[float] | None,
) -> int:
    """Add the combination of the members' probabilities, and return its tensor."""
    rules = {"mean": _mean, "logit": _mean_logit, "vote": _vote}
    if rule == "weights":
        return _weighted(graph, members, weights)
    return rules[rule](graph, members)


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
    least = graph.constant(np.float32(MIN_PROBABILITY))
    logits = [graph.add("LOG", graph.add("MAXIMUM", p, least)) for p in members]
    return graph.add("SOFTMAX", _mean(graph, logits), beta=1.0)


def _vote(graph, members):
    share = _mean(graph, [_choice(graph, member) for member in members])
    tie_break = np.float32(0.5 / len(members))
    mean = graph.add("MUL", _mean(graph, members), graph.constant(tie_break))
    total = graph.add("ADD", share, mean)
    return graph.add("DIV", total, graph.constant(1 + tie_break))


def _choice(graph, member):
    """Add a vote: one for the most probable class, zero for the others."""
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
    yes, no = graph.constant(np.float32(1)), graph.constant(np.float32(0))
    return graph.add(
        "ONE_HOT", best, depth, yes, no, shape=lambda size: [*size, classes], axis=-1
    )


def _one_column(size):
    return [*size[:-1], 1]
