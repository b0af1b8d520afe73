"""An MQTT 5 message, as far as nodes and gateways use one."""

import io
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..inputs.npy import read_header

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


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_name(name: str, what: str = "a name") -> str:
    """Return a name that may stand in a topic, and so in access rules.

    Raises:
        ValueError: If it has other characters than these.
    """
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        raise ValueError(
            f"Expected {what} of at most 64 letters, digits, '.', '_' and '-', the "
            f"first a letter or digit. Received: {name!r}."
        )
    return name


@dataclass(frozen=True)
class Topics:
    """Name the topics.

    Args:
        prefix: What they all begin with, one or more names joined by `/`.
            Defaults to `"micronets"`.

    Raises:
        ValueError: If the prefix is none.

    Example:

    ```python
    Topics().requests("node-1")  # "micronets/nodes/node-1/requests"
    ```
    """

    prefix: str = "micronets"

    def __post_init__(self):
        for name in self.prefix.split("/"):
            check_name(name, "a prefix of names joined by '/', each")

    def node(self, node: str) -> str:
        """Return where a node describes itself; `"+"` stands for all nodes."""
        return f"{self.prefix}/nodes/{node}"

    def requests(self, node: str) -> str:
        """Return where a node is sent requests."""
        return f"{self.prefix}/nodes/{node}/requests"

    def answers(self, gateway: str, node: str) -> str:
        """Return where a node answers a gateway; `"+"` stands for all nodes."""
        return f"{self.prefix}/gateways/{gateway}/answers/{node}"


class LRUCache:
    """Remember the newest values, within a number and a size.

    Args:
        count: The most values kept. Defaults to `1024`.
        size: The most bytes kept, as `put` is told. Defaults to 16 MiB.

    Example:

    ```python
    recent = Recent(count=1)
    recent.put("a", 1)
    recent.put("b", 2)
    recent.get("a")  # None
    ```
    """

    def __init__(self, *, count: int = 1024, size: int = 2**24):
        self._count, self._size, self._held = count, size, 0
        self._values = OrderedDict()

    def __len__(self):
        return len(self._values)

    def get(self, key):
        """Return a value, or `None` where it is forgotten."""
        return self._values.get(key, (None, 0))[0]

    def put(self, key, value, size: int = 0) -> None:
        """Remember a value of so many bytes; the oldest ones are forgotten."""
        self._held += size - self._values.pop(key, (None, 0))[1]
        self._values[key] = (value, size)
        while len(self._values) > self._count or self._held > self._size:
            self._held -= self._values.popitem(last=False)[1][1]


MAX_HEADER = 512


def pack(array: np.ndarray) -> bytes:
    """Return an array of numbers as the bytes of a `.npy` file.

    Raises:
        ValueError: If it holds no numbers, or more than `MAX_PAYLOAD` bytes.
    """
    if array.dtype.kind not in "buif" or array.nbytes > MAX_PAYLOAD - MAX_HEADER:
        raise ValueError(
            f"Expected numbers, at most {MAX_PAYLOAD - MAX_HEADER:,} bytes of them; "
            f"send fewer samples at a time. Received: {array.nbytes:,} bytes of "
            f"{array.dtype}."
        )
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=(1, 0), allow_pickle=False)
    return file.getvalue()


def unpack(data: bytes) -> np.ndarray:
    """Return the array that the bytes of a `.npy` file hold; it cannot be written to.

    Nothing is unpickled, and no memory is taken for what the header only claims.

    Raises:
        ValueError: If the bytes are anything but one array of numbers.
    """
    if len(data) > MAX_PAYLOAD:
        raise ValueError(f"Expected at most {MAX_PAYLOAD:,} bytes. Received: more.")
    file = io.BytesIO(data)
    try:
        header = read_header(file, most=MAX_HEADER)
    except ValueError as error:
        raise ValueError(f"Expected a .npy array. Received: {error}") from None
    size = len(data) - file.tell()
    if data[6:8] != b"\1\0" or len(header.shape) > 8:
        raise ValueError(
            "Expected a .npy array of version 1.0, of at most 8 dimensions. Received: "
            f"version {data[6]}.{data[7]}, {len(header.shape)} dimensions."
        )
    if header.n_bytes != size:
        raise ValueError(
            f"Expected the bytes of {header.dtype} of shape {header.shape}. "
            f"Received: {size} bytes."
        )
    flat = np.frombuffer(data, header.dtype, offset=file.tell())
    return flat.reshape(header.shape, order="F" if header.is_fortran else "C")
