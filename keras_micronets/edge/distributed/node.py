"""Queue the requests of a node, and remember its responses."""

import dataclasses
import itertools
import logging
import math
import os
import queue
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from typing import Any

import numpy as np

from ..runner import EnsembleRunner
from .broker import Broker
from .connection import Connection
from .message import (
    MAX_PAYLOAD,
    LRUCache,
    Message,
    Topics,
    check_name,
    pack,
    unpack_inputs,
)
from .protocol import BUSY, NodeDescription, NodeRequest, NodeResponse

__all__ = ["Inbox", "Node", "Verdict", "predict"]


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


log = logging.getLogger(__name__)

#: A description is repeated at each keepalive, and valid for this number of them.
LEASES = 3


class Node:
    """Serve members of a bundle to gateways through a broker.

    The constructor connects; the node then runs on its own threads until it is closed.

    Args:
        path: The bundle, a folder or a `.zip`.
        broker: The broker.
        members: Indices in the manifest of the members to serve. Defaults to `None`,
            all.
        public_key: As for `EnsembleRunner`. Defaults to `None`.
        name: Unique name of the node; with access rules, the user name. Defaults to
            `None`: the user name, or the host's.
        capacity: Number of requests it takes at a time; further requests are answered
            "busy". Defaults to `8`.
        prefix: First part of the topics. Defaults to `"micronets"`.
        on_failed: Function called with a message if the node stops because another
            node uses its name. Defaults to `None`.

    Attributes:
        name: The name.
        statistics: Counts of requests by how they ended.
        failed: Why the node has stopped, or `""`.

    Raises:
        ValueError: If the bundle is damaged, or paho-mqtt is missing.
        ConnectionError: If there is no broker, or it rejects the node.

    Example:

    ```python
    from keras_micronets.edge import Broker, Node

    with Node("bundle", Broker("broker.local"), members=[0]) as node:
        node.wait()
    ```
    """

    def __init__(
        self,
        path: str | os.PathLike,
        broker: Broker,
        *,
        members: Sequence[int] | None = None,
        public_key: str | os.PathLike | bytes | None = None,
        name: str | None = None,
        capacity: int = 8,
        prefix: str = "micronets",
        on_failed: Callable[[str], None] | None = None,
    ) -> None:
        default = broker.username or socket.gethostname()
        self.name = check_name(name or default, "a node's name")
        self.statistics: Counter[str] = Counter()
        self.failed = ""
        self._token, self._sessions = os.urandom(8).hex(), itertools.count()
        self._capacity = capacity
        self._topics = Topics(prefix)
        self._topic = self._topics.node(self.name)
        self._lease = LEASES * broker.keepalive
        self._inbox = Inbox(capacity)
        self._stopping, self._on_failed = threading.Event(), on_failed
        self._load = partial(
            EnsembleRunner, path, members=members, public_key=public_key, warm_up=True
        )
        self._runner = self._load()
        self._running = threading.Lock()
        self._description = self._describe()
        self._connection = Connection(
            broker,
            self.name,
            [self._topics.requests(self.name), self._topic],
            will=Message(self._topic, retain=True),
            on_message=self._receive,
            on_connect=self._connected,
            on_dropped=self._dropped,
        )
        self._connection.open()
        self._connection.confirm(self._announced)
        self._worker = threading.Thread(target=self._work, name="node", daemon=True)
        self._worker.start()

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the members served."""
        return self._description.members

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the node is closed or fails; return whether it has."""
        return self._stopping.wait(timeout)

    def reload(self) -> None:
        """Read the bundle again and serve it, without an interruption.

        Raises:
            ValueError: If it is damaged. The old bundle then stays in use.
            ConnectionError: If the node is closed or has failed.
        """
        if self._stopping.is_set():
            raise ConnectionError(self.failed or "The node is closed.")
        runner = self._load()
        with self._running:
            old, self._runner = self._runner, runner
        old.close()
        self._description = self._describe()
        self._announce()

    def close(self) -> None:
        """Tell the gateways that the node leaves, and stop."""
        self._stopping.set()
        self._inbox.wake()
        self._worker.join()
        farewell = None if self.failed else Message(self._topic, retain=True)
        self._connection.close(farewell)
        self._runner.close()

    def __enter__(self) -> "Node":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _describe(self):
        members = tuple(member.name for member in self._runner.members)
        digest = self._runner.manifest.digest
        session = f"{self._token}-{next(self._sessions)}"
        return NodeDescription(digest, members, self._capacity, session)

    def _connected(self):
        self._description = self._describe()
        self._announce()

    def _dropped(self, message, reason):
        """Answer with an error in place of predictions that the broker rejects."""
        if message.correlation and message.payload:
            self.statistics["dropped"] += 1
            fields = {**message.fields, "error": reason}
            error = dataclasses.replace(message, payload=b"", fields=fields)
            self._connection.publish(error)

    def _announce(self):
        message = self._description.to_message(self._topic, self._lease)
        self._announced = self._connection.publish(message)

    def _receive(self, message):
        """Handle a message, in the client's thread."""
        try:
            if message.topic == self._topic:
                self._check_own_topic(message)
                return
            request = NodeRequest.from_message(message)
        except ValueError as error:
            self.statistics["malformed"] += 1
            log.debug("Dropped a message that is not a request: %s", error)
            return
        verdict = self._inbox.put(request, time.monotonic())
        if isinstance(verdict, Message):
            self.statistics["repeated"] += 1
            self._connection.publish(verdict)
            return
        self.statistics[verdict.value] += 1
        if verdict is Verdict.BUSY:
            self._connection.publish(self._error(request, BUSY))

    def _check_own_topic(self, message):
        """Detect descriptions of this node that it has not published."""
        if message.retain or self._stopping.is_set():
            return
        if not message.payload:  # the will of an earlier process
            self._announce()
        elif self._token not in NodeDescription.from_message(message).session:
            self.failed = f"another node has the name {self.name!r}"
            self._stopping.set()
            if self._on_failed is not None:
                self._on_failed(self.failed)

    def _work(self):
        interval = self._lease / LEASES
        renewal = time.monotonic() + interval
        while not self._stopping.is_set():
            item = self._inbox.get(max(0.0, renewal - time.monotonic()))
            if item is not None:
                self._serve(*item)
            if time.monotonic() >= renewal:
                renewal = time.monotonic() + interval
                if self._connection.is_up:
                    self._announce()

    def _serve(self, request, deadline):
        response = None
        try:
            if time.monotonic() < deadline:
                response = self._predict(request)
            else:
                self.statistics["expired"] += 1
        except Exception as error:  # a bad request must not stop the node
            self.statistics["failed"] += 1
            response = self._error(request, f"{type(error).__name__}: {error}")
        self._inbox.done(request, response)
        # After a lost connection the gateway repeats its requests.
        if response is not None and self._connection.is_up:
            self._connection.publish(response)

    def _predict(self, request):
        with self._running:
            inputs = self._runner.members[0].input_shape
            x = unpack_inputs(request.payload, inputs)
            predictions = predict(self._runner, request.members, x)
            digest = self._runner.manifest.digest
        self.statistics["answered"] += 1
        payload = pack(predictions)
        return self._message(
            request, NodeResponse(request.id, request.members, digest, payload)
        )

    def _error(self, request, error):
        digest = self._description.digest
        return self._message(
            request, NodeResponse(request.id, request.members, digest, error=error)
        )

    def _message(self, request, response):
        topic = self._topics.answers(request.gateway, self.name)
        return response.to_message(topic, math.ceil(request.timeout))


def predict(runner: EnsembleRunner, names: Sequence[str], x: Any) -> np.ndarray:
    """Return the predictions of the named members, `(members, samples, *outputs)`."""
    members = {member.name: member for member in runner.members}
    if not {*names} <= {*members}:
        raise ValueError(f"Expected members out of {[*members]}. Received: {names}.")
    if [*names] == [*members]:
        return runner.predict_members(x)
    x = runner.preprocess(x)
    return np.stack([members[name].predict(x) for name in names])
