from collections import Counter
from dataclasses import dataclass

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_micronets.export.size import gzip_size

_OPERATORS = {v: k for k, v in vars(schema.BuiltinOperator).items() if k.isupper()}
_FLOATS = (schema.TensorType.FLOAT32, schema.TensorType.FLOAT16)


@dataclass(frozen=True)
class Flatbuffer:
    """What a `.tflite` file holds.

    Attributes:
        n_bytes: Size of the file in bytes.
        gzip_bytes: Size of the file in bytes after gzip.
        operations: Number of operations of each type.
        float_operations: Those of them that put out floating-point tensors.
        int8_weights: The constant int8 tensors with more than one dimension, by
            name, in the file's own layout.
    """

    n_bytes: int
    gzip_bytes: int
    operations: Counter
    float_operations: Counter
    int8_weights: dict[str, np.ndarray]


def read_flatbuffer(content: bytes) -> Flatbuffer:
    """Read the operations and weights of a `.tflite` file.

    Args:
        content: The bytes of the file.
    """
    model = schema.ModelT.InitFromPackedBuf(content)
    operations, floating, weights = Counter(), Counter(), {}
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            number = max(code.builtinCode, code.deprecatedBuiltinCode)
            name = _OPERATORS.get(number, str(number))
            operations[name] += 1
            if any(graph.tensors[i].type in _FLOATS for i in operator.outputs):
                floating[name] += 1
        for tensor in graph.tensors:
            data = model.buffers[tensor.buffer].data
            is_int8 = tensor.type == schema.TensorType.INT8
            if data is not None and is_int8 and len(tensor.shape) > 1:
                shaped = np.asarray(data, "uint8").view("int8").reshape(tensor.shape)
                weights[tensor.name.decode()] = shaped
    return Flatbuffer(
        n_bytes=len(content),
        gzip_bytes=gzip_size(content),
        operations=operations,
        float_operations=floating,
        int8_weights=weights,
    )
