"""A device that runs members for others."""

import itertools
import logging
import math
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from ..runner import EnsembleRunner
from .broker import Broker
from .connection import Connection
from .inbox import Inbox, Verdict
from .message import Message, Topics, check_name, pack, unpack
from .protocol import BUSY, NodeDescription, NodeRequest, NodeResponse

log = logging.getLogger(__name__)

#: A description lasts for so many times the keepalive; it is repeated at each.
LEASES = 3


class Node:
    """Serve members of a bundle to gateways, by way of a broker.

    It connects when it is made, and runs on threads of its own until it is closed.

    Args:
        bundle: The bundle, a folder or a `.zip`.
        broker: The broker.
        members: Places in the manifest of the members to serve. Defaults to `None`,
            all.
        name: Name of the node, of which there is one; with access rules, the user
            name. Defaults to `None`: the user name, or the host's.
        capacity: Requests it takes at a time; more are answered "busy".
            Defaults to `8`.
        prefix: What the topics begin with. Defaults to `"micronets"`.
        public_key: As for `EnsembleRunner`. Defaults to `None`.
        on_failed: Called with a sentence if the node serves no more, another having
            taken its name. Defaults to `None`.

    Attributes:
        name: The name.
        statistics: Counts of what happened to requests.
        failed: Why the node serves no more, or `""`.

    Raises:
        ValueError: If the bundle is damaged, or paho-mqtt is missing.
        ConnectionError: If there is no broker, or it does not take us.

    Example:

    ```python
    with Node("bundle", Broker("broker.local"), members=[0]) as node:
        node.wait()
    ```
    """

    def __init__(
        self,
        bundle: str | os.PathLike,
        broker: Broker,
        *,
        members: Sequence[int] | None = None,
        name: str | None = None,
        capacity: int = 8,
        prefix: str = "micronets",
        public_key: str | os.PathLike | bytes | None = None,
        on_failed: Callable[[str], None] | None = None,
    ):
        default = broker.username or socket.gethostname()
        self.name = check_name(name or default, "a node's name")
        self.statistics, self.failed = Counter(), ""
        self._token, self._sessions = os.urandom(8).hex(), itertools.count()
        self._capacity = capacity
        self._topics = Topics(prefix)
        self._topic = self._topics.node(self.name)
        self._lease = LEASES * broker.keepalive
        self._inbox = Inbox(capacity)
        self._stopping, self._on_failed = threading.Event(), on_failed
        self._load = partial(
            EnsembleRunner,
            bundle,
            members=members,
            public_key=public_key,
            warm_up=True,
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
            on_up=self._back,
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
        """Serve the bundle as it is on the disk now; requests go on meanwhile.

        Raises:
            ValueError: If it is damaged; the old one is served on.
        """
        runner = self._load()
        with self._running:
            old, self._runner = self._runner, runner
        old.close()
        self._description = self._describe()
        self._announce()

    def close(self) -> None:
        """Take the node off the list and stop."""
        self._stopping.set()
        self._inbox.wake()
        self._worker.join()
        farewell = None if self.failed else Message(self._topic, retain=True)
        self._connection.close(farewell)
        self._runner.close()

    def __enter__(self) -> "Node":
        return self

    def __exit__(self, *_):
        self.close()

    def _describe(self):
        members = tuple(member.name for member in self._runner.members)
        digest = self._runner.manifest.digest
        session = f"{self._token}-{next(self._sessions)}"
        return NodeDescription(digest, members, self._capacity, session)

    def _back(self):
        self._description = self._describe()
        self._announce()

    def _announce(self):
        message = self._description.to_message(self._topic, self._lease)
        self._announced = self._connection.publish(message)

    def _heard_of_itself(self, message):
        """See that what is said of this node is what it says."""
        if message.retain or self._stopping.is_set():
            return
        if not message.payload:  # the will of an earlier process
            self._announce()
        elif self._token not in NodeDescription.from_message(message).session:
            self.failed = f"another node calls itself {self.name!r}"
            self._stopping.set()
            if self._on_failed is not None:
                self._on_failed(self.failed)

    def _receive(self, message):
        """Take a message in, in the client's thread."""
        try:
            if message.topic == self._topic:
                self._heard_of_itself(message)
                return
            request = NodeRequest.from_message(message)
        except ValueError as error:
            self.statistics["malformed"] += 1
            log.debug("Dropped a message that is none for a node: %s", error)
            return
        verdict = self._inbox.put(request, time.monotonic())
        if isinstance(verdict, Message):
            self.statistics["repeated"] += 1
            self._connection.publish(verdict)
            return
        self.statistics[verdict.value] += 1
        if verdict is Verdict.BUSY:
            self._connection.publish(self._refusal(request, BUSY))

    def _work(self):
        renewal = self._lease / LEASES
        renew = time.monotonic() + renewal
        while not self._stopping.is_set():
            item = self._inbox.get(max(0.0, renew - time.monotonic()))
            if item is not None:
                self._serve(*item)
            if time.monotonic() >= renew:
                renew = time.monotonic() + renewal
                if self._connection.up:
                    self._announce()

    def _serve(self, request, deadline):
        answer = None
        try:
            if time.monotonic() < deadline:
                answer = self._answer(request)
            else:
                self.statistics["expired"] += 1
        except Exception as error:  # a bad request must not stop the node
            self.statistics["failed"] += 1
            answer = self._refusal(request, f"{type(error).__name__}: {error}")
        self._inbox.done(request, answer)
        if answer is not None:
            self._connection.publish(answer)

    def _answer(self, request):
        x = unpack(request.payload)
        with self._running:
            probabilities = predict(self._runner, request.members, x)
            digest = self._runner.manifest.digest
        self.statistics["answered"] += 1
        reply = NodeResponse(request.id, request.members, digest, pack(probabilities))
        return self._message(request, reply)

    def _refusal(self, request, error):
        digest = self._description.digest
        reply = NodeResponse(request.id, request.members, digest, error=error)
        return self._message(request, reply)

    def _message(self, request, reply):
        topic = self._topics.answers(request.gateway, self.name)
        return reply.to_message(topic, math.ceil(request.within))


def predict(runner: EnsembleRunner, names: Sequence[str], x: np.ndarray) -> np.ndarray:
    """Return the probabilities of some members, `(members, samples, classes)`.

    Raises:
        ValueError: If the runner has no such member, or `x` does not suit it.
    """
    members = {member.name: member for member in runner.members}
    if not {*names} <= {*members}:
        raise ValueError(f"Expected members out of {[*members]}. Received: {names}.")
    if [*names] == [*members]:
        return runner.predict_members(x)
    x = runner.preprocess(x)
    return np.stack([members[name].predict(x) for name in names])
