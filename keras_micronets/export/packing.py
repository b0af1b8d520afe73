import flatbuffers
from ai_edge_litert import schema_py_generated as schema

IDENTIFIER = b"TFL3"
# LiteRT maps constants from the file; Python's builder has no care where they lie.
ALIGNMENT = 16


def pack(model: schema.ModelT, size: int = 1024) -> bytes:
    """Return the bytes of a `.tflite` file.

    Args:
        model: What it holds.
        size: About how many bytes these are. Defaults to `1024`.
    """
    builder = _AlignedBuilder(size)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


class _AlignedBuilder(flatbuffers.Builder):
    def StartVector(self, elemSize, numElems, alignment):  # noqa: N802
        is_data = elemSize == 1
        alignment = max(alignment, ALIGNMENT) if is_data else alignment
        return super().StartVector(elemSize, numElems, alignment)
