"""What a gateway sends to a node."""

import dataclasses
import json
import math
from dataclasses import dataclass

import numpy as np

from ..bundle.from_json import from_json
from .message import Message, check_name, unpack

LONGEST = 3600.0
MAX_MEMBERS = 1024


@dataclass(frozen=True)
class NodeRequest:
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
    def from_message(cls, message: Message) -> "NodeRequest":
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


BUSY = "busy"
#: By how much the probabilities of a sample may miss one together.
ROUNDING = 1e-3


@dataclass(frozen=True)
class NodeResponse:
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
    def from_message(cls, message: Message) -> "NodeResponse":
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


FORMAT = 1
MAX_BYTES = 2**18


@dataclass(frozen=True)
class NodeDescription:
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
    def from_message(cls, message: Message) -> "NodeDescription":
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
