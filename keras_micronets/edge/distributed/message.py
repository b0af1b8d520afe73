"""Define the MQTT messages: their topics, their arrays, and how to detect repeats."""

import io
import math
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..inputs.npy import read_header
from ..tensors import count_samples, take_samples

__all__ = [
    "LRUCache",
    "Message",
    "Topics",
    "check_name",
    "pack",
    "pack_inputs",
    "split_samples",
    "unpack",
    "unpack_inputs",
]

#: Largest payload in bytes.
MAX_PAYLOAD = 64 * 2**20
#: Largest MQTT packet that nodes and gateways accept.
MAX_PACKET = MAX_PAYLOAD + 2**16
MAX_HEADER = 512
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Message:
    """Hold an MQTT 5 message, with the properties that nodes and gateways use.

    Args:
        topic: Topic it is published to or was received from.
        payload: Its bytes.
        correlation: MQTT's Correlation Data.
        expires: Seconds for which the broker keeps it, or `None` for no limit.
        fields: MQTT's User Properties.
        retain: Whether the broker keeps it for later subscribers.
    """

    topic: str
    payload: bytes = b""
    correlation: bytes = b""
    expires: int | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    retain: bool = False


def check_name(name: Any, label: str = "a name") -> str:
    """Return a name, or raise a `ValueError` if a topic cannot contain it."""
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        raise ValueError(
            f"Expected {label} of at most 64 letters, digits, '.', '_' and '-', the "
            f"first a letter or digit. Received: {name!r}."
        )
    return name


@dataclass(frozen=True)
class Topics:
    """Build the topics, which start with a prefix of names joined by `/`."""

    prefix: str = "micronets"

    def __post_init__(self) -> None:
        for name in self.prefix.split("/"):
            check_name(name, "a prefix of names joined by '/', each")

    def node(self, node: str) -> str:
        """Return the topic of a node's description; `"+"` matches all nodes."""
        return f"{self.prefix}/nodes/{node}"

    def requests(self, node: str) -> str:
        """Return the topic of the requests to a node."""
        return f"{self.prefix}/nodes/{node}/requests"

    def answers(self, gateway: str, node: str) -> str:
        """Return the topic of a node's responses to a gateway; `"+"` matches all."""
        return f"{self.prefix}/gateways/{gateway}/answers/{node}"


class LRUCache:
    """Keep the most recently used values, limited in number and total size in bytes."""

    def __init__(self, *, count: int = 1024, size: int = 2**24) -> None:
        self._count, self._size, self._total = count, size, 0
        self._values: OrderedDict[Any, tuple[Any, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Any) -> Any:
        """Return a value, or `None` if it is not in the cache."""
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key][0]

    def put(self, key: Any, value: Any, size: int = 0) -> None:
        """Add a value of `size` bytes, and remove the least recently used ones."""
        self._total += size - self._values.pop(key, (None, 0))[1]
        self._values[key] = (value, size)
        while len(self._values) > self._count or self._total > self._size:
            self._total -= self._values.popitem(last=False)[1][1]


def pack(array: np.ndarray) -> bytes:
    """Return an array of numbers as the bytes of a `.npy` file, if not too large."""
    if array.dtype.kind not in "buif" or array.nbytes > MAX_PAYLOAD - MAX_HEADER:
        raise ValueError(
            f"Expected numbers, at most {MAX_PAYLOAD - MAX_HEADER:,} bytes of them; "
            f"send fewer samples at a time. Received: {array.nbytes:,} bytes of "
            f"{array.dtype}."
        )
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=(1, 0), allow_pickle=False)
    return file.getvalue()


def pack_inputs(x: Any) -> bytes:
    """Return samples as one `.npy` array, or as one after the other of each input."""
    if not isinstance(x, dict):
        return pack(x)
    data = b"".join(map(pack, x.values()))
    if len(data) > MAX_PAYLOAD:
        raise ValueError(
            f"Expected at most {MAX_PAYLOAD:,} bytes; send fewer samples at a time. "
            f"Received: {len(data):,} bytes."
        )
    return data


def split_samples(x: Any, size: int, most: int) -> list[Any]:
    """Split samples into parts of at most `most` samples and `size` packed bytes.

    Raises:
        ValueError: If one sample is too large.
    """
    arrays = [*x.values()] if isinstance(x, dict) else [x]
    size = min(size, MAX_PAYLOAD) - MAX_HEADER * len(arrays)
    each = sum(a.itemsize * math.prod(a.shape[1:]) for a in arrays)
    if each > size:
        raise ValueError(
            f"Expected samples of at most {max(0, size):,} bytes; send them as uint8 "
            "if that is what they are, or raise max_packet_size in the broker's "
            f"configuration. Received: {each:,} bytes."
        )
    step = max(1, min(most, size // each))
    starts = range(0, max(1, count_samples(x)), step)
    return [take_samples(x, slice(start, start + step)) for start in starts]


def unpack(data: bytes) -> np.ndarray:
    """Return the array in the bytes of a `.npy` file from the network, read-only.

    Nothing is unpickled, and no memory is allocated for values that are not there.
    Bytes that are not exactly one array of numbers raise a `ValueError`.
    """
    return unpack_inputs(data, None)


def unpack_inputs(data: bytes, inputs: Any) -> Any:
    """Return the samples that `pack_inputs` has packed, checked as by `unpack`.

    Args:
        data: The bytes.
        inputs: Dictionary whose keys are the names of several inputs, in their order;
            anything else for one input.
    """
    if len(data) > MAX_PAYLOAD:
        raise ValueError(f"Expected at most {MAX_PAYLOAD:,} bytes. Received: more.")
    file = io.BytesIO(data)
    if not isinstance(inputs, dict):
        return _next_array(data, file, is_last=True)
    *others, last = inputs
    arrays = {name: _next_array(data, file, is_last=False) for name in others}
    return arrays | {last: _next_array(data, file, is_last=True)}


def _next_array(data, file, *, is_last):
    try:
        header = read_header(file, max_bytes=MAX_HEADER)
    except ValueError as error:
        raise ValueError(f"Expected a .npy array. Received: {error}") from None
    start, size = file.tell(), header.n_bytes
    left = len(data) - start
    if len(header.shape) > 8 or header.version != (1, 0):
        raise ValueError(
            "Expected a .npy array of version 1.0, of at most 8 dimensions. Received: "
            f"version {'.'.join(map(str, header.version))}, {len(header.shape)} "
            "dimensions."
        )
    if size > left or (is_last and size < left):
        raise ValueError(
            f"Expected the bytes of {header.dtype} of shape {header.shape}. "
            f"Received: {left} bytes."
        )
    file.seek(start + size)
    count = size // header.dtype.itemsize
    flat = np.frombuffer(data, header.dtype, count, start)
    return flat.reshape(header.shape, order="F" if header.is_fortran else "C")
