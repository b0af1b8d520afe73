from collections import Counter

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

IDENTIFIER = b"TFL3"
# LiteRT maps constants from the file; Python's builder has no care where they lie.
ALIGNMENT = 16


def shorten_names(content: bytes) -> bytes:
    """Call the tensors of a `.tflite` file after their layers, to make it smaller.

    The converter names a tensor after every operation that went into it: a twentieth
    of the file of a small net. Inputs and outputs keep their names.

    Args:
        content: The bytes of the file.

    Returns:
        The bytes of a file that differs in nothing else.
    """
    model = schema.ModelT.InitFromPackedBuf(content)
    for graph in model.subgraphs:
        seen = Counter()
        for index, tensor in enumerate(graph.tensors):
            if index not in graph.inputs and index not in graph.outputs:
                tensor.name = _unique(_layer(tensor.name.decode()), seen)
    builder = _AlignedBuilder(len(content))
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


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


class _AlignedBuilder(flatbuffers.Builder):
    def StartVector(self, elemSize, numElems, alignment):  # noqa: N802
        is_data = elemSize == 1
        alignment = max(alignment, ALIGNMENT) if is_data else alignment
        return super().StartVector(elemSize, numElems, alignment)
