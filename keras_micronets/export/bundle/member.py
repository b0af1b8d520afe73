"""Hold a member that is written into a bundle."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keras_micronets.edge.member import Member

__all__ = ["BundleMember"]


@dataclass(frozen=True)
class BundleMember:
    """Hold one member to be written into a bundle.

    Args:
        name: Unique name of the member.
        model: Bytes of a `.tflite` file, or its path.
        from_logits: Whether the model's output is logits. Defaults to `False`.
        metadata: Further facts as JSON values, such as sparsity and epoch. Defaults
            to an empty dictionary.
        loaded: A `Member` that runs these bytes with this name, so that they are not
            loaded again. Defaults to `None`.

    Example:

    ```python
    member = keras_micronets.export.BundleMember("small", "small.tflite")
    ```
    """

    name: str
    model: bytes | str | os.PathLike
    from_logits: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)
    loaded: Member | None = field(default=None, compare=False, repr=False)

    def read(self) -> bytes:
        """Return the bytes of the model; raise a `ValueError` without such a file."""
        if isinstance(self.model, bytes):
            return self.model
        try:
            return Path(self.model).read_bytes()
        except OSError as error:
            raise ValueError(
                f"Expected a .tflite file. Received: {self.model} ({error.strerror})."
            ) from None

    def load(self, content: bytes) -> Member:
        """Return the `Member` that runs the bytes that `read` returned."""
        if self.loaded is not None:
            return self.loaded
        return Member(content, name=self.name, from_logits=self.from_logits)
