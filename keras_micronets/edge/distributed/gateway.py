"""One door to an ensemble whose members run on many devices."""

import logging
import math
import os
import secrets
import socket
import threading
import time
from concurrent.futures import Future

import numpy as np

from ..bundle.manifest import Manifest
from ..preprocessing import check_finite, check_samples
from .broker import Broker
from .connection import Connection
from .dispatcher import Dispatcher
from .message import Topics, check_name, pack
from .protocol import LONGEST, NodeDescription, NodeRequest, NodeResponse
from .request import EnsembleResult, Request, read_answer

log = logging.getLogger(__name__)


class Gateway:
    """Ask the members of a bundle on the nodes that serve them.

    It connects when it is made. The models stay on the nodes: only the manifest of
    the bundle is read here, and only nodes with the very same bundle are asked.

    Args:
        bundle: The bundle, a folder or a `.zip`.
        broker: The broker.
        quorum: Members that must have answered. Defaults to `None`, a majority.
        deadline: Seconds in which to answer. Defaults to `1.0`.
        name: Name of the gateway; with access rules, the user name. Defaults to
            `None`: the user name, or the host's with something random.
        prefix: What the topics begin with. Defaults to `"micronets"`.
        max_pending: The most requests open at a time. Defaults to `256`.
        public_key: As for `verify`. Defaults to `None`.

    Attributes:
        name: The name.
        manifest: The `Manifest` of the bundle.

    Raises:
        ValueError: If the bundle is none, or paho-mqtt is missing.
        ConnectionError: If there is no broker, or it does not take us.

    Example:

    ```python
    with Gateway("bundle", Broker("broker.local"), quorum=3) as gateway:
        gateway.wait(10)
        answer = gateway.predict(images)
        print(answer.probabilities, answer.members)
    ```
    """

    def __init__(
        self,
        bundle: str | os.PathLike,
        broker: Broker,
        *,
        quorum: int | None = None,
        deadline: float = 1.0,
        name: str | None = None,
        prefix: str = "micronets",
        max_pending: int = 256,
        public_key: str | os.PathLike | bytes | None = None,
    ):
        self.manifest = Manifest.read(bundle, public_key=public_key)
        self.deadline = _check_deadline(deadline)
        default = broker.username or f"{socket.gethostname()}-{secrets.token_hex(4)}"
        self.name = check_name(name or default, "a gateway's name")
        self._topics = Topics(prefix)
        self._dispatcher = _dispatcher(self.manifest, quorum, max_pending)
        self._changed, self._next = threading.Condition(), math.inf
        self._closed = False
        self._connection = Connection(
            broker,
            self.name,
            [self._topics.node("+"), self._topics.answers(self.name, "+")],
            on_message=self._receive,
            on_up=lambda: self._do(self._dispatcher.resume),
        )
        self._connection.open()
        self._timer = threading.Thread(
            target=self._keep_time, name="gateway", daemon=True
        )
        self._timer.start()

    @property
    def statistics(self) -> dict[str, int]:
        """Counts of what was sent, answered and dropped."""
        with self._changed:
            return dict(self._dispatcher.statistics)

    @property
    def nodes(self) -> dict[str, tuple[str, ...]]:
        """Names of the members served, by the name of the node."""
        with self._changed:
            roster = self._dispatcher.roster
            return {node.name: node.description.members for node in roster}

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until every member has a node.

        Args:
            timeout: The most seconds to wait. Defaults to `None`, for ever.

        Returns:
            Whether every member has one.
        """
        wanted = {member.name for member in self.manifest.members}
        with self._changed:
            return (
                self._changed.wait_for(
                    lambda: self._closed or wanted <= self._dispatcher.roster.members,
                    timeout,
                )
                and not self._closed
            )

    def predict(
        self, x: np.ndarray, *, deadline: float | None = None
    ) -> EnsembleResult:
        """Return what the members say of some samples.

        Args:
            x: Raw inputs of shape `(samples, *input_shape)`, integers or floats.
            deadline: Seconds in which to answer. Defaults to `None`, the gateway's.

        Returns:
            The answer: once all members that have a node have answered, if they
            reach the quorum; at the deadline, of those that have.

        Raises:
            NoQuorumError: At the deadline, if too few have answered.
            ValueError: If `x` has another shape, values that are not finite, or is
                too large.
            OverloadedError: If too many requests are open.
            ConnectionError: If the gateway is closed.
        """
        return self.submit(x, deadline=deadline).result()

    def submit(
        self, x: np.ndarray, *, deadline: float | None = None
    ) -> "Future[EnsembleResult]":
        """Send some samples and return the answer to come, see `predict`."""
        x = check_samples(x, self.manifest.members[0].input.shape)
        check_finite(x)
        seconds = self.deadline if deadline is None else _check_deadline(deadline)
        future = Future()
        future.set_running_or_notify_cancel()
        now = time.monotonic()
        question = Request(pack(x), len(x), now, now + seconds, future)
        self._do(self._submit, question)
        return future

    def close(self) -> None:
        """Leave the broker; requests that are open raise a `ConnectionError`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._do(lambda now: self._dispatcher.drop_all())
        self._timer.join()
        self._connection.close()

    def __enter__(self) -> "Gateway":
        return self

    def __exit__(self, *_):
        self.close()

    def _submit(self, question, now):
        if self._closed:
            raise ConnectionError("The gateway is closed.")
        self._dispatcher.submit(question, now)

    def _do(self, action, *arguments):
        """Tell the dispatcher what happened, then do what it decides."""
        dispatcher = self._dispatcher
        with self._changed:
            action(*arguments, time.monotonic())
            sends, over = dispatcher.take()
            if dispatcher.due() < self._next:
                self._changed.notify_all()
        for ask in sends:
            self._send(ask)
        for question in over:
            self._resolve(question)

    def _keep_time(self):
        while not self._closed:
            with self._changed:
                self._next = self._dispatcher.due()
                left = self._next - time.monotonic()
                if left > 0 and not self._closed:
                    self._changed.wait(min(left, threading.TIMEOUT_MAX))
                self._next = math.inf
            self._do(self._dispatcher.tick)

    def _send(self, ask):
        payload = ask.question.payload
        within = ask.question.deadline - time.monotonic()
        # While the connection is broken nothing is sent: `resume` does, later.
        if payload and within > 0 and self._connection.up:
            request = NodeRequest(ask.id, self.name, ask.members, within, payload)
            self._connection.publish(
                request.to_message(self._topics.requests(ask.node))
            )

    def _receive(self, message):
        """Take a message in, in the client's thread."""
        where, _, node = message.topic.rpartition("/")
        try:
            check_name(node)
            if where == self._topics.answers(self.name, "+")[:-2]:
                reply = NodeResponse.from_message(message)
                self._do(self._dispatcher.reply, node, reply)
            elif not message.payload:
                self._do(self._dispatcher.lose, node)
            else:
                self._announced(node, message)
        except ValueError as error:
            self._do(self._count, "malformed")
            log.debug("Dropped what is no message of a node: %s", error)

    def _announced(self, node, message):
        description = NodeDescription.from_message(message)
        if message.expires is None:
            raise ValueError("Expected a description that expires.")
        self._do(self._dispatcher.announce, node, description, message.expires)
        with self._changed:
            self._changed.notify_all()

    def _count(self, what, now):
        self._dispatcher.statistics[what] += 1

    def _resolve(self, question):
        future = question.context
        try:
            future.set_result(self._result(question))
        except Exception as error:
            future.set_exception(error)

    def _result(self, question):
        quorum = self._dispatcher.quorum
        if self._closed and len(question.answers) < quorum:
            raise ConnectionError("The gateway is closed.")
        seconds = time.monotonic() - question.started
        return read_answer(question, self.manifest, quorum, seconds)


def _dispatcher(manifest, quorum, max_pending):
    members = tuple(member.name for member in manifest.members)
    quorum = len(members) // 2 + 1 if quorum is None else quorum
    if not 0 < quorum <= len(members):
        raise ValueError(
            f"Expected a quorum from 1 to {len(members)}, the members. "
            f"Received: quorum={quorum}."
        )
    classes = manifest.members[0].output.shape[0]
    return Dispatcher(
        members,
        digest=manifest.digest,
        classes=classes,
        quorum=quorum,
        max_pending=max_pending,
    )


def _check_deadline(seconds):
    if not 0 < seconds <= LONGEST:
        raise ValueError(
            f"Expected a deadline of up to {LONGEST:.0f} s. Received: {seconds}."
        )
    return seconds
