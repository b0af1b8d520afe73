"""One member of a bundle, as the manifest describes it."""

from dataclasses import dataclass, field
from typing import Any

from .tensor_spec import TensorSpec


@dataclass(frozen=True)
class MemberEntry:
    """Describe one member of a bundle.

    Args:
        name: Name of the member, unlike any other's.
        file: Name of its `.tflite` file, relative to the bundle.
        from_logits: Whether the model puts out logits.
        input: What it takes in.
        output: What it puts out.
        bytes: Size of the file in bytes.
        gzip_bytes: Size of the file in bytes, compressed by gzip.
        metadata: Whatever else is worth knowing (sparsity, epoch), as JSON values.
            Defaults to an empty dict.
    """

    name: str
    file: str
    from_logits: bool
    input: TensorSpec
    output: TensorSpec
    bytes: int
    gzip_bytes: int
    metadata: dict[str, Any] = field(default_factory=dict)
