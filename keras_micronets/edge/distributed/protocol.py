"""Define what gateways and nodes send each other, and check what they receive."""

import dataclasses
import json
import math
from dataclasses import dataclass

import numpy as np

from ..bundle.from_json import from_json
from ..tasks import CLASS_TASKS
from .message import Message, check_name, unpack

__all__ = ["NodeDescription", "NodeRequest", "NodeResponse"]

FORMAT = 1
BUSY = "busy"
MAX_SECONDS = 3600.0
MAX_MEMBERS = 1024
MAX_DESCRIPTION = 2**18
#: Largest difference between one and the sum of a sample's probabilities.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class NodeRequest:
    """Ask a node for the predictions of some members.

    Args:
        id: 16 random bytes. A request that is sent again has the same.
        gateway: Name of the gateway.
        members: Names of the members.
        timeout: Seconds left for the response. It is a duration, since the clocks of
            devices differ.
        payload: The raw inputs, a `.npy` array of shape `(samples, *input_shape)`; of
            several inputs one array after the other, in the order of the manifest.
    """

    id: bytes
    gateway: str
    members: tuple[str, ...]
    timeout: float
    payload: bytes

    def to_message(self, topic: str) -> Message:
        """Return the message for this request."""
        fields = {
            "gateway": self.gateway,
            "within": f"{self.timeout:.6f}",
            "members": json.dumps(self.members),
        }
        expires = math.ceil(self.timeout)
        return Message(topic, self.payload, self.id, expires, fields)

    @classmethod
    def from_message(cls, message: Message) -> "NodeRequest":
        """Return the request in a message, or raise a `ValueError`.

        The payload is not checked.
        """
        if len(message.correlation) != 16:
            raise ValueError("Expected an id of 16 bytes as correlation data.")
        gateway = check_name(message.fields.get("gateway"), "a gateway's name")
        timeout = _seconds(message.fields.get("within", ""))
        members = _names(message.fields.get("members", ""))
        return cls(message.correlation, gateway, members, timeout, message.payload)


@dataclass(frozen=True)
class NodeResponse:
    """Answer a `NodeRequest` with predictions or an error.

    Args:
        id: The request's identifier.
        members: Names of the members.
        digest: `Manifest.digest` of the node's bundle.
        payload: A `.npy` array, `float32` of shape `(members, samples, *outputs)`.
        error: `"busy"`, a description of the error, or `""`.
    """

    id: bytes
    members: tuple[str, ...]
    digest: str
    payload: bytes = b""
    error: str = ""

    def to_message(self, topic: str, expires: int) -> Message:
        """Return the message for this response, kept for `expires` seconds."""
        fields = {"members": json.dumps(self.members), "digest": self.digest}
        if self.error:
            fields["error"] = self.error[:1000]
        return Message(topic, self.payload, self.id, expires, fields)

    @classmethod
    def from_message(cls, message: Message) -> "NodeResponse":
        """Return the response in a message, unchecked; `predictions()` checks it."""
        get = message.fields.get
        try:
            members = _names(get("members", ""))
        except ValueError:
            members = ()
        digest, error = get("digest", ""), get("error", "")
        return cls(message.correlation, members, digest, message.payload, error)

    def predictions(
        self,
        members: tuple[str, ...],
        digest: str,
        shape: tuple[int, ...],
        task: str = "multiclass",
    ) -> np.ndarray:
        """Return the `float32` predictions, `(members, samples, *outputs)`.

        Raises:
            ValueError: If there is an error, they do not match the requested members,
                digest and shape `(samples, *outputs)`, or are not predictions of the
                task.
        """
        if self.error:
            raise ValueError(f"Expected predictions. Received: {self.error:.200}")
        if (self.members, self.digest) != (members, digest):
            raise ValueError("Expected the requested members of the same bundle.")
        array = unpack(self.payload)
        expected = (len(members), *shape)
        if array.shape != expected or array.dtype != np.float32:
            raise ValueError(
                f"Expected float32 of shape {expected}. Received: {array.dtype} of "
                f"shape {array.shape}."
            )
        if not np.isfinite(array).all():
            raise ValueError("Expected finite predictions. Received: others.")
        if task in CLASS_TASKS and not ((array >= 0) & (array <= 1 + TOLERANCE)).all():
            raise ValueError("Expected probabilities. Received: others.")
        if (
            task == "multiclass"
            and (abs(array.sum(axis=-1, dtype="float64") - 1) > TOLERANCE).any()
        ):
            raise ValueError("Expected probabilities that sum to one.")
        return array


@dataclass(frozen=True)
class NodeDescription:
    """Describe a node to the gateways.

    Args:
        digest: `Manifest.digest` of its bundle.
        members: Names of the members it serves.
        capacity: Number of requests that it takes at a time.
        session: Text that differs for each connection. From a new one a gateway sees
            that the node was away, and sends its requests again.
        format: Version of this description and of the messages.
    """

    digest: str
    members: tuple[str, ...]
    capacity: int
    session: str
    format: int = FORMAT

    def __post_init__(self) -> None:
        names = {*self.members}
        if not (
            self.format == FORMAT
            and 0 < len(names) == len(self.members) <= MAX_MEMBERS
            and 0 < self.capacity <= 2**16
        ):
            raise ValueError(
                f"Expected a description of format {FORMAT}, with unique members and "
                f"a capacity from 1 to 65536. Received: format {self.format}, "
                f"{len(self.members)} members, capacity {self.capacity}."
            )

    def to_message(self, topic: str, expires: int) -> Message:
        """Return the message for this description, kept for `expires` seconds."""
        text = json.dumps(dataclasses.asdict(self))
        return Message(topic, text.encode(), expires=expires, retain=True)

    @classmethod
    def from_message(cls, message: Message) -> "NodeDescription":
        """Return the description in a message, or raise a `ValueError`."""
        if len(message.payload) > MAX_DESCRIPTION:
            raise ValueError(
                f"Expected at most {MAX_DESCRIPTION:,} bytes. Received: more."
            )
        try:
            value = json.loads(message.payload)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"Expected JSON. Received: {error}") from None
        return from_json(value, cls, "description")


def _seconds(text):
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MAX_SECONDS:
        raise ValueError(
            f"Expected seconds up to {MAX_SECONDS:.0f}. Received: {text:.50}."
        )
    return seconds


def _names(text: str) -> tuple[str, ...]:
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
