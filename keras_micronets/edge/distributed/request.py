"""What a gateway sends to a node."""

import json
import math
from dataclasses import dataclass

from .message import Message
from .topics import check_name

LONGEST = 3600.0
MAX_MEMBERS = 1024


@dataclass(frozen=True)
class Request:
    """Ask a node for the probabilities of some members.

    Args:
        id: 16 bytes, random. A request that is sent again has the same.
        gateway: Name of who asks.
        members: Names of the members asked for.
        within: Seconds that are left to answer; a duration, since the clocks of
            devices differ.
        payload: The raw inputs, a `.npy` array of shape `(samples, *input_shape)`.
    """

    id: bytes
    gateway: str
    members: tuple[str, ...]
    within: float
    payload: bytes

    def to_message(self, topic: str) -> Message:
        """Return the message that carries it."""
        fields = {
            "gateway": self.gateway,
            "within": f"{self.within:.6f}",
            "members": json.dumps(self.members),
        }
        expires = math.ceil(self.within)
        return Message(topic, self.payload, self.id, expires, fields)

    @classmethod
    def from_message(cls, message: Message) -> "Request":
        """Return the request that a message carries.

        Raises:
            ValueError: If it carries none. The payload is not looked at.
        """
        if len(message.correlation) != 16:
            raise ValueError("Expected an id of 16 bytes as correlation data.")
        gateway = check_name(message.fields.get("gateway"), "a gateway's name")
        within = _seconds(message.fields.get("within", ""))
        members = read_names(message.fields.get("members", ""))
        return cls(message.correlation, gateway, members, within, message.payload)


def _seconds(text):
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= LONGEST:
        raise ValueError(f"Expected seconds up to {LONGEST:.0f}. Received: {text:.50}.")
    return seconds


def read_names(text: str) -> tuple[str, ...]:
    """Return the names of members out of a JSON list.

    Raises:
        ValueError: If it is none.
    """
    try:
        names = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Expected a JSON list of names. Received: {error}") from None
    if not (
        isinstance(names, list)
        and 0 < len(names) <= MAX_MEMBERS
        and all(isinstance(name, str) for name in names)
        and len({*names}) == len(names)
    ):
        raise ValueError(f"Expected a JSON list of names. Received: {text:.100}")
    return tuple(names)
