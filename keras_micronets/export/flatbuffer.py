"""Read, rename and write the content of `.tflite` files."""

import gzip
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_micronets.edge.operators import pack

__all__ = [
    "Flatbuffer",
    "gzip_size",
    "read_bytes",
    "read_flatbuffer",
    "shorten_names",
]

_OPERATORS = {v: k for k, v in vars(schema.BuiltinOperator).items() if k.isupper()}
_TYPES = {v: k.lower() for k, v in vars(schema.TensorType).items() if k.isupper()}
_FLOATS = ("float16", "float32", "float64", "bfloat16")
_INTEGERS = ("int4", "int8")  # of kernels; wider ones are biases, shapes, paddings
OPEN_SIZE = 32


@dataclass(frozen=True)
class Flatbuffer:
    """Describe the content of a `.tflite` file.

    Weights are constants with more than one dimension, of integers of up to 8 bits or
    floats: kernels and tables, not biases.

    Attributes:
        n_bytes: Size of the file in bytes.
        gzip_bytes: Size of the file in bytes after gzip.
        operations: Number of operations of each type.
        float_operations: Those of them with floating-point outputs.
        weight_bytes: Bytes of the weights by the type they are stored in.
        n_weights: Number of integer weights.
        n_zeros: Number of these that are zero.
        n_saturated: Number of biases at the limit of int32, which may be clipped.
        int8_weights: The integer weights by name, as int8 in the file's layout,
            including those packed in 4 bits, but not those stored as sparse.
    """

    n_bytes: int
    gzip_bytes: int
    operations: Counter
    float_operations: Counter
    weight_bytes: Counter
    n_weights: int
    n_zeros: int
    n_saturated: int
    int8_weights: dict[str, np.ndarray]


def read_bytes(path: str | os.PathLike) -> bytes:
    """Return the bytes of a `.tflite` file; raise a `ValueError` without a file."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(
            f"Expected a .tflite file. Received: {path} ({error.strerror})."
        ) from None


def read_flatbuffer(content: bytes) -> Flatbuffer:
    """Read the operations and weights of a `.tflite` file."""
    model = schema.ModelT.InitFromPackedBuf(content)
    operations, floating = _operations(model)
    weights = _weights(model)
    integers = [(t, _unpacked(t, data)) for t, data in weights if _is_integer(t)]
    n_weights = sum(int(np.prod(tensor.shape)) for tensor, _ in integers)
    return Flatbuffer(
        n_bytes=len(content),
        gzip_bytes=gzip_size(content),
        operations=operations,
        float_operations=floating,
        weight_bytes=_bytes_by_type(weights),
        n_weights=n_weights,
        n_zeros=n_weights - sum(int(np.count_nonzero(x)) for _, x in integers),
        n_saturated=sum(map(_n_saturated, _constants(model, ("int32",)))),
        int8_weights={
            tensor.name.decode(): values.reshape(tensor.shape)
            for tensor, values in integers
            if tensor.sparsity is None
        },
    )


def _operations(model):
    operations, floating = Counter(), Counter()
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            number = max(code.builtinCode, code.deprecatedBuiltinCode)
            name = _OPERATORS.get(number, str(number))
            operations[name] += 1
            if any(_TYPES[graph.tensors[i].type] in _FLOATS for i in operator.outputs):
                floating[name] += 1
    return operations, floating


def _weights(model):
    constants = _constants(model, (*_INTEGERS, *_FLOATS))
    return [(tensor, data) for tensor, data in constants if len(tensor.shape) > 1]


def _constants(model, types):
    """Yield the constant tensors of some types with their bytes."""
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            data = model.buffers[tensor.buffer].data
            if data is not None and _TYPES[tensor.type] in types:
                yield tensor, np.asarray(data, "uint8")


def _n_saturated(constant):
    tensor, data = constant
    if tensor.quantization is None or tensor.quantization.scale is None:
        return 0  # a shape or an index, not a bias
    return int(np.sum(np.abs(data.view("int32").astype("int64")) >= 2**31 - 1))


def _bytes_by_type(weights):
    sizes = Counter()
    for tensor, data in weights:
        sizes[_TYPES[tensor.type]] += len(data)
    return sizes


def _is_integer(tensor):
    return _TYPES[tensor.type] in _INTEGERS


def _unpacked(tensor, data):
    """Return integer weights as int8; int4 packs two in a byte, the low one first."""
    if _TYPES[tensor.type] == "int8":
        return data.view("int8")
    pairs = np.stack([data << 4, data], axis=-1).view("int8") >> 4
    return pairs.ravel()[: int(np.prod(tensor.shape))]


def shorten_names(content: bytes, inputs: Sequence[str] = ()) -> bytes:
    """Return the file with its tensors named after their layers, to make it smaller.

    The converter names a tensor after every operation that was fused into it, which is
    a twentieth of a small file. Outputs keep their names, and so do inputs unless
    `inputs` are given, their names in the order of the file. Input sizes that are open,
    except for the batch, become 32 by default; few convolutions run on one of 1.
    """
    model = schema.ModelT.InitFromPackedBuf(content)
    for tensor in (model.subgraphs[0].tensors[i] for i in model.subgraphs[0].inputs):
        if tensor.shapeSignature is not None:
            sizes = zip(tensor.shape, tensor.shapeSignature, strict=True)
            shape = [OPEN_SIZE if signed == -1 else size for size, signed in sizes]
            tensor.shape = [*tensor.shape[:1], *shape[1:]]
    for index, name in zip(model.subgraphs[0].inputs, inputs, strict=False):
        model.subgraphs[0].tensors[index].name = name
    for graph in model.subgraphs:
        seen = Counter()
        for index, tensor in enumerate(graph.tensors):
            if index not in graph.inputs and index not in graph.outputs:
                tensor.name = _unique(_layer(tensor.name.decode()), seen)
    return pack(model, len(content))


def _layer(name):
    """Return the last layer of a name as `net/block/layer/quantizer/Op;net/...`."""
    scopes = [
        scope
        for scope in name.split(";")[0].split("/")[:-1]
        if "_quantizer" not in scope
    ]
    return scopes[-1] if scopes else name


def _unique(name, seen):
    seen[name] += 1
    return name if seen[name] == 1 else f"{name}:{seen[name]}"


def gzip_size(content: bytes) -> int:
    """Return the size in bytes of content after gzip at its highest level."""
    return len(gzip.compress(content, 9, mtime=0))
