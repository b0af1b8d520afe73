"""What a node says about itself."""

import dataclasses
import json
from dataclasses import dataclass

from ..bundle.from_json import from_json
from .message import Message
from .request import MAX_MEMBERS

FORMAT = 1
MAX_BYTES = 2**18


@dataclass(frozen=True)
class Description:
    """Describe a node.

    Args:
        digest: Identity of its bundle, `Manifest.digest`.
        members: Names of the members it serves.
        capacity: Requests that it takes at a time.
        session: Drawn anew at each connection, so that a gateway sees that the
            node was away and asks again.
        format: Version of this description and of the messages.
            Defaults to `FORMAT`.

    Raises:
        ValueError: If no node is like this.
    """

    digest: str
    members: tuple[str, ...]
    capacity: int
    session: str
    format: int = FORMAT

    def __post_init__(self):
        names = {*self.members}
        if not (
            self.format == FORMAT
            and 0 < len(names) == len(self.members) <= MAX_MEMBERS
            and 0 < self.capacity <= 2**16
        ):
            raise ValueError(
                f"Expected a description of format {FORMAT}, with members and a "
                f"capacity. Received: format {self.format}, {len(self.members)} "
                f"members, capacity {self.capacity}."
            )

    def to_message(self, topic: str, expires: int) -> Message:
        """Return the message that carries it, kept by the broker for a while."""
        text = json.dumps(dataclasses.asdict(self))
        return Message(topic, text.encode(), expires=expires, retain=True)

    @classmethod
    def from_message(cls, message: Message) -> "Description":
        """Return the description that a message carries.

        Raises:
            ValueError: If it carries none.
        """
        if len(message.payload) > MAX_BYTES:
            raise ValueError(f"Expected at most {MAX_BYTES:,} bytes. Received: more.")
        try:
            value = json.loads(message.payload)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"Expected JSON. Received: {error}") from None
        return from_json(value, cls, "description")
