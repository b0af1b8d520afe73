"""One member on its way into a bundle."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class BundleMember:
    """Hold one member to be written into a bundle.

    Args:
        name: Name of the member, unlike any other's.
        model: Bytes of a `.tflite` file, or the path of one.
        from_logits: Whether the model puts out logits. Defaults to `False`.
        metadata: Whatever else is worth knowing (sparsity, epoch), as JSON values.
            Defaults to an empty dict.
    """

    name: str
    model: bytes | str | os.PathLike
    from_logits: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)

    def read(self) -> bytes:
        """Return the bytes of the model.

        Raises:
            ValueError: If there is no such file.
        """
        if isinstance(self.model, bytes):
            return self.model
        try:
            return Path(self.model).read_bytes()
        except OSError as error:
            raise ValueError(
                f"Expected a .tflite file. Received: {self.model} ({error.strerror})."
            ) from None
