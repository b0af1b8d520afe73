from collections import Counter

from ai_edge_litert import schema_py_generated as schema

from keras_micronets.export.packing import pack


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
