"""What a node sends back to a gateway."""

import json
from dataclasses import dataclass

import numpy as np

from .message import Message
from .npy import unpack
from .request import read_names

BUSY = "busy"
#: By how much the probabilities of a sample may miss one together.
ROUNDING = 1e-3


@dataclass(frozen=True)
class Reply:
    """Answer a `Request`, or say why not.

    Args:
        id: That of the request.
        members: Names of the members whose probabilities these are.
        digest: Identity of the bundle they come from.
        payload: A `.npy` array, `float32` of shape `(members, samples, classes)`.
        error: `"busy"`, or what was wrong. Defaults to `""`, nothing.
    """

    id: bytes
    members: tuple[str, ...]
    digest: str
    payload: bytes = b""
    error: str = ""

    def to_message(self, topic: str, expires: int) -> Message:
        """Return the message that carries it, kept for so many seconds."""
        fields = {"members": json.dumps(self.members), "digest": self.digest}
        if self.error:
            fields["error"] = self.error[:1000]
        return Message(topic, self.payload, self.id, expires, fields)

    @classmethod
    def from_message(cls, message: Message) -> "Reply":
        """Return the reply that a message carries; nothing is checked yet."""
        get = message.fields.get
        try:
            members = read_names(get("members", ""))
        except ValueError:
            members = ()
        return cls(
            message.correlation,
            members,
            get("digest", ""),
            message.payload,
            get("error", ""),
        )

    def probabilities(
        self, members: tuple[str, ...], digest: str, shape: tuple[int, int]
    ) -> np.ndarray:
        """Return the probabilities, if they are what was asked for.

        Args:
            members: Names of the members asked for.
            digest: Identity of the bundle.
            shape: `(samples, classes)`.

        Returns:
            `float32` array of shape `(members, samples, classes)`.

        Raises:
            ValueError: If they are anything else, or no probabilities.
        """
        if self.error:
            raise ValueError(f"Expected probabilities. Received: {self.error:.200}")
        if (self.members, self.digest) != (members, digest):
            raise ValueError("Expected the members asked for, of the same bundle.")
        array = unpack(self.payload)
        expected = (len(members), *shape)
        if array.shape != expected or array.dtype != np.float32:
            raise ValueError(
                f"Expected float32 of shape {expected}. Received: {array.dtype} of "
                f"shape {array.shape}."
            )
        if not (np.isfinite(array).all() and (array >= 0).all()):
            raise ValueError("Expected probabilities. Received: negative or not finite")
        if (abs(array.sum(axis=-1, dtype="float64") - 1) > ROUNDING).any():
            raise ValueError("Expected probabilities that sum to one.")
        return array
