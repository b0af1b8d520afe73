"""What a node has to do, and what it has done."""

import queue
import threading
from enum import Enum

from .message import MAX_PAYLOAD, LRUCache, Message
from .protocol import NodeRequest


class Verdict(Enum):
    """Say what becomes of a request."""

    NEW = "new"
    AGAIN = "in progress"
    BUSY = "busy"


class Inbox:
    """Take requests in, within a number and a size, each once.

    Args:
        capacity: The most requests held at a time, the one in work among them.
    """

    def __init__(self, capacity: int):
        self._capacity, self._size = capacity, 0
        self._held: dict[tuple[str, bytes], NodeRequest] = {}
        self._done = LRUCache()
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        self._lock = threading.Lock()

    def put(self, request: NodeRequest, now: float) -> Verdict | Message:
        """Take a request in, or say why not.

        Returns:
            What becomes of it; the answer, where it was given before.
        """
        key = request.gateway, request.id
        with self._lock:
            if key in self._held:
                return Verdict.AGAIN
            if (answer := self._done.get(key)) is not None:
                return answer
            size = self._size + len(request.payload)
            if self._held and (size > MAX_PAYLOAD or len(self._held) >= self._capacity):
                return Verdict.BUSY
            self._held[key], self._size = request, size
        self._queue.put((request, now + request.within))
        return Verdict.NEW

    def get(self, timeout: float) -> tuple[NodeRequest, float] | None:
        """Return the next request and its deadline; `None` after so many seconds."""
        try:
            return self._queue.get(timeout=timeout)
        except queue.Empty:
            return None

    def wake(self) -> None:
        """Make a `get` return `None`."""
        self._queue.put(None)

    def done(self, request: NodeRequest, answer: Message | None) -> None:
        """Let a request go, and remember its answer if there is one."""
        key = request.gateway, request.id
        with self._lock:
            self._size -= len(self._held.pop(key).payload)
            if answer is not None:
                self._done.put(key, answer, len(answer.payload) + 256)
