"""An MQTT 5 message, as far as nodes and gateways use one."""

from collections.abc import Mapping
from dataclasses import dataclass, field

#: The most bytes a payload may have.
MAX_PAYLOAD = 64 * 2**20


@dataclass(frozen=True)
class Message:
    """Hold a message.

    Args:
        topic: Where it goes, or came from.
        payload: Its bytes. Defaults to none.
        correlation: MQTT's Correlation Data. Defaults to none.
        expires: Seconds for which the broker keeps it. Defaults to `None`, for ever.
        fields: MQTT's User Properties. Defaults to an empty dict.
        retain: Whether the broker keeps it for those that come later.
            Defaults to `False`.
    """

    topic: str
    payload: bytes = b""
    correlation: bytes = b""
    expires: int | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    retain: bool = False
