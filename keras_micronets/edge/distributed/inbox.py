"""Queue the requests of a node, and remember its responses."""

import queue
import threading
from enum import Enum

from .message import MAX_PAYLOAD, LRUCache, Message
from .protocol import NodeRequest

__all__ = ["Inbox", "Verdict"]


class Verdict(Enum):
    """Classify an incoming request; the values are keys of a node's statistics."""

    NEW = "new"
    AGAIN = "in progress"
    BUSY = "busy"


class Inbox:
    """Queue requests, each once, limited in number and total size.

    Args:
        capacity: Largest number of requests, including the one being served.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity, self._size = capacity, 0
        self._pending: dict[tuple[str, bytes], NodeRequest] = {}
        self._done = LRUCache()
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        self._lock = threading.Lock()

    def put(self, request: NodeRequest, now: float) -> Verdict | Message:
        """Queue a request if it is new and there is room.

        Returns the verdict, or the earlier response if the request was already served.
        """
        key = request.gateway, request.id
        with self._lock:
            if key in self._pending:
                return Verdict.AGAIN
            if (response := self._done.get(key)) is not None:
                return response
            size, count = self._size + len(request.payload), len(self._pending)
            if count and (size > MAX_PAYLOAD or count >= self._capacity):
                return Verdict.BUSY
            self._pending[key], self._size = request, size
        self._queue.put((request, now + request.timeout))
        return Verdict.NEW

    def get(self, timeout: float) -> tuple[NodeRequest, float] | None:
        """Return the next request and its deadline, or `None` after the timeout."""
        try:
            return self._queue.get(timeout=timeout)
        except queue.Empty:
            return None

    def wake(self) -> None:
        """Make a waiting `get` return `None`."""
        self._queue.put(None)

    def done(self, request: NodeRequest, response: Message | None) -> None:
        """Remove a served request, and remember its response if there is one."""
        key = request.gateway, request.id
        with self._lock:
            self._size -= len(self._pending.pop(key).payload)
            if response is not None:
                self._done.put(key, response, len(response.payload) + 256)
