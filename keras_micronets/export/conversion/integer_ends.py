"""Give a `.tflite` file integer inputs and outputs in the place of float ones."""

from collections.abc import Iterable

from ai_edge_litert import schema_py_generated as schema

from keras_micronets.edge.operators import pack
from keras_micronets.export.conversion.float_islands import remove_marks

__all__ = ["with_integer_ends"]


def with_integer_ends(content: bytes) -> bytes:
    """Return a file whose inputs and outputs are the integers that it computes with.

    An input that the file rounds before it is read becomes the rounded tensor, unless
    operations in float read it, too, since Keras does not round what those read. Bytes
    that are rounded to all of their 256 values, as those of photographs are, are not
    cast to floats before. An output made of integers becomes these integers. Other
    inputs and outputs stay as they are.

    The converter can do this, too, but it deletes the conversion between such an output
    and an operation in float, whose operand is then missing; LiteRT crashes on that.

    Args:
        content: The bytes of a file with float inputs and outputs.
    """
    model = schema.ModelT.InitFromPackedBuf(content)
    graph = model.subgraphs[0]
    remove_marks(graph)
    graph.inputs = [_rounded_input(model, index) for index in graph.inputs]
    for index in graph.inputs:
        _round_bytes(model, index)
    graph.outputs = [_rounded_output(model, index) for index in graph.outputs]
    read = {*graph.outputs, *(i for x in graph.operators for i in x.inputs)}
    dequantize = _code(model, "DEQUANTIZE")
    graph.operators = [
        operator
        for operator in graph.operators
        if operator.opcodeIndex != dequantize or operator.outputs[0] in read
    ]
    _drop_tensors(graph)
    _drop_codes(model)
    return pack(model, len(content))


def _rounded_input(model, index):
    """Return the tensor that an input is rounded to, or the input itself."""
    graph = model.subgraphs[0]
    readers = [operator for operator in graph.operators if index in operator.inputs]
    rounding = [x for x in readers if x.opcodeIndex == _code(model, "QUANTIZE")]
    shape = _code(model, "SHAPE")  # reads no values
    exact = [x for x in readers if x not in rounding and x.opcodeIndex != shape]
    if exact or not rounding:
        return index
    # With several ranges the widest one, so that no reader loses values to clipping.
    widest = max(rounding, key=lambda x: _step(graph.tensors[x.outputs[0]]))
    (rounded,) = widest.outputs
    graph.operators.remove(widest)
    if len(readers) > 1 or index in graph.outputs:
        back = schema.OperatorT()
        back.opcodeIndex = _code(model, "DEQUANTIZE")
        back.inputs, back.outputs = [rounded], [index]
        graph.operators.insert(0, back)
    _swap_names(graph.tensors[rounded], graph.tensors[index])
    return rounded


def _round_bytes(model, index):
    """Let the file round the bytes of an input, if it rounds their floats to bytes.

    To other ranges, it rounds integers otherwise than floats.
    """
    graph = model.subgraphs[0]
    tensor, quantize = graph.tensors[index], _code(model, "QUANTIZE")
    casts = [operator for operator in graph.operators if index in operator.inputs]
    floats = [i for operator in casts for i in operator.outputs]
    readers = [x for x in graph.operators if not {*floats}.isdisjoint(x.inputs)]
    is_cast = {x.opcodeIndex for x in casts} == {_code(model, "CAST")}
    is_rounded = {x.opcodeIndex for x in readers} == {quantize} and all(
        _step(graph.tensors[x.outputs[0]]) == 1.0 for x in readers
    )
    if tensor.type != schema.TensorType.UINT8 or not (is_cast and is_rounded):
        return
    tensor.quantization = schema.QuantizationParametersT()
    tensor.quantization.scale, tensor.quantization.zeroPoint = [1.0], [0]
    for operator in readers:
        operator.inputs = [index]
    graph.operators = [x for x in graph.operators if x not in casts]
    model.operatorCodes[quantize].version = 2  # which rounds integers too


def _step(tensor):
    return float(tensor.quantization.scale[0])


def _rounded_output(model, index):
    """Return the integers that an output is made of, or the output itself."""
    graph = model.subgraphs[0]
    for operator in graph.operators:
        is_rounded = operator.opcodeIndex == _code(model, "DEQUANTIZE")
        if is_rounded and index in operator.outputs:
            (rounded,) = operator.inputs
            if rounded not in graph.inputs:
                _swap_names(graph.tensors[rounded], graph.tensors[index])
            return rounded
    return index


def _swap_names(one, other):
    one.name, other.name = other.name, one.name


def _code(model, name):
    """Return the index of an operator's code, which is added if there is none."""
    number = getattr(schema.BuiltinOperator, name)
    codes = [max(x.builtinCode, x.deprecatedBuiltinCode) for x in model.operatorCodes]
    if number not in codes:
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = number
        code.version = 2  # the first one that reads int8
        model.operatorCodes.append(code)
    return [*codes, number].index(number)


def _drop_tensors(graph):
    lists = [(graph, "inputs"), (graph, "outputs")]
    for operator in graph.operators:
        lists += [(operator, x) for x in ("inputs", "outputs", "intermediates")]
    lists = [(owner, name) for owner, name in lists if getattr(owner, name) is not None]
    indices = _numbered(i for owner, name in lists for i in getattr(owner, name))
    for owner, name in lists:
        setattr(owner, name, [indices.get(i, -1) for i in getattr(owner, name)])
    graph.tensors = [graph.tensors[i] for i in indices]


def _drop_codes(model):
    operators = [x for graph in model.subgraphs for x in graph.operators]
    indices = _numbered(x.opcodeIndex for x in operators)
    for operator in operators:
        operator.opcodeIndex = indices[operator.opcodeIndex]
    model.operatorCodes = [model.operatorCodes[i] for i in indices]


def _numbered(indices: Iterable[int]) -> dict[int, int]:
    """Return new indices for those in use, in their order; -1 means no tensor."""
    return {old: new for new, old in enumerate(sorted({*indices} - {-1}))}
