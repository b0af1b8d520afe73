"""Multiply-accumulates of a `.tflite` file, counted operator by operator."""

from math import prod

from ai_edge_litert import schema_py_generated as schema

_NAMES = {value: key for key, value in vars(schema.BuiltinOperator).items()}


def macs_of_file(content):
    """Return the multiply-accumulates of one inference, for one sample.

    Depthwise convolutions of 1 x 1 pixels are left out: normalisation and rescaling
    become such operators.
    """
    model = schema.ModelT.InitFromPackedBuf(content)
    (graph,) = model.subgraphs
    total = 0
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        name = _NAMES[max(code.builtinCode, code.deprecatedBuiltinCode)]
        inputs = [graph.tensors[i].shape for i in operator.inputs if i >= 0]
        made = graph.tensors[operator.outputs[0]].shape
        if name == "DEPTHWISE_CONV_2D" and prod(inputs[1][1:3]) == 1:
            continue
        if name in ("CONV_2D", "DEPTHWISE_CONV_2D", "CONV_3D", "FULLY_CONNECTED"):
            total += prod(made[:-1]) * prod(inputs[1])
        elif name == "TRANSPOSE_CONV":  # its inputs: output shape, kernel, values
            total += prod(inputs[2][:-1]) * prod(inputs[1])
        elif name == "BATCH_MATMUL":
            total += prod(made) * _summed(operator, inputs[0])
    return int(total)


def _summed(operator, shape):
    transposed = operator.builtinOptions and operator.builtinOptions.adjX
    return shape[-2] if transposed else shape[-1]
