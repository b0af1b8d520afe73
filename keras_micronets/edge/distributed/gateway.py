"""Predict with an ensemble whose members run on other devices."""

import logging
import math
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from ..bundle.manifest import Manifest
from ..preprocessing import check_finite
from ..tensors import check_samples, count_samples
from .broker import Broker
from .connection import Connection
from .dispatcher import Dispatcher
from .message import (
    MAX_HEADER,
    MAX_PAYLOAD,
    Message,
    Topics,
    check_name,
    pack_inputs,
    split_samples,
)
from .protocol import MAX_SECONDS, NodeDescription, NodeRequest, NodeResponse
from .request import Batch, EnsembleResult, Request, read_result

__all__ = ["Gateway"]

log = logging.getLogger(__name__)


class Gateway:
    """Predict with the members of a bundle on the nodes that serve them.

    The constructor connects. The models stay on the nodes: only the manifest of the
    bundle is read here, and only nodes with the same bundle are used.

    Args:
        path: The bundle, a folder or a `.zip`.
        broker: The broker.
        public_key: As for `verify`. Defaults to `None`.
        quorum: Number of members that must answer. Defaults to `None`, a majority.
        deadline: Seconds for a prediction. Defaults to `1.0`.
        name: Name of the gateway; with access rules, the user name. Defaults to
            `None`: the user name, or the host's with a random suffix.
        prefix: First part of the topics. Defaults to `"micronets"`.
        max_pending: Largest number of open requests; a batch in parts is accepted as a
            whole. Defaults to `256`.

    Attributes:
        name: The name.
        manifest: The `Manifest` of the bundle.

    Raises:
        ValueError: If the bundle is damaged, or paho-mqtt is missing.
        ConnectionError: If there is no broker, or it rejects the gateway.

    Example:

    ```python
    from keras_micronets.edge import Broker, Gateway

    with Gateway("bundle", Broker("broker.local"), quorum=3) as gateway:
        gateway.wait(10)
        result = gateway.predict(x)
        print(result.probabilities, result.members)
    ```
    """

    def __init__(
        self,
        path: str | os.PathLike,
        broker: Broker,
        *,
        public_key: str | os.PathLike | bytes | None = None,
        quorum: int | None = None,
        deadline: float = 1.0,
        name: str | None = None,
        prefix: str = "micronets",
        max_pending: int = 256,
    ) -> None:
        self.manifest = Manifest.read(path, public_key=public_key)
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
            on_connect=lambda: self._do(self._dispatcher.resume),
            on_dropped=lambda message, reason: self._do(
                self._dispatcher.fail, message.correlation, reason
            ),
        )
        self._connection.open()
        self._timer = threading.Thread(
            target=self._keep_time, name="gateway", daemon=True
        )
        self._timer.start()

    @property
    def statistics(self) -> dict[str, int]:
        """Counts of messages sent, received and dropped."""
        with self._changed:
            return dict(self._dispatcher.statistics)

    @property
    def nodes(self) -> dict[str, tuple[str, ...]]:
        """Names of the members served, by the name of the node."""
        with self._changed:
            registry = self._dispatcher.registry
            return {node.name: node.description.members for node in registry}

    def wait(self, timeout: float | None = None) -> bool:
        """Wait up to `timeout` seconds, or without a limit, for a node for each member.

        Returns whether every member has one.

        Raises:
            ConnectionError: If the gateway is closed.
        """
        self._check_open()
        needed = {member.name for member in self.manifest.members}
        registry = self._dispatcher.registry
        with self._changed:
            is_ready = self._changed.wait_for(
                lambda: self._closed or needed <= registry.members, timeout
            )
            return is_ready and not self._closed

    def predict(self, x: Any, *, deadline: float | None = None) -> EnsembleResult:
        """Return the combined prediction of the members that answer in time.

        Args:
            x: Raw inputs, as for `EnsembleRunner.predict`. A batch is sent in parts
                that the broker accepts; each part is a request, and `nodes` of the
                result are those of the first.
            deadline: Seconds for the prediction. Defaults to `None`, the gateway's.

        Returns:
            The result, once all members that have a node have answered and these reach
            the quorum, or at the deadline.

        Raises:
            NoQuorumError: If too few have answered at the deadline.
            ValueError: If `x` has another shape or non-finite values, or one sample or
                its prediction is larger than the broker accepts.
            OverloadedError: If too many requests are open.
            ConnectionError: If the gateway is closed, or the broker does not accept
                the request after all.
        """
        return self.submit(x, deadline=deadline).result()

    def submit(
        self, x: Any, *, deadline: float | None = None
    ) -> "Future[EnsembleResult]":
        """Send samples, and return the future of their result, see `predict`."""
        x = check_samples(x, self.manifest.members[0].input_shape)
        check_finite(x)
        seconds = self.deadline if deadline is None else _check_deadline(deadline)
        future: Future[EnsembleResult] = Future()
        future.set_running_or_notify_cancel()
        samples, most_members = self._split(x)
        batch, now = Batch(future), time.monotonic()
        batch.parts = [
            Request(
                pack_inputs(part),
                count_samples(part),
                now,
                now + seconds,
                batch,
                most_members,
            )
            for part in samples
        ]
        self._do(self._submit, *batch.parts)
        return future

    def close(self) -> None:
        """Disconnect; open requests raise a `ConnectionError`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._do(lambda now: self._dispatcher.finish_all())
        self._timer.join()
        self._connection.close()

    def __enter__(self) -> "Gateway":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _split(self, x):
        """Return parts of samples, and the number of members whose answer fits."""
        names, node = self._dispatcher.members, "x" * 64  # the longest name
        request = NodeRequest(bytes(16), self.name, names, MAX_SECONDS, b"")
        answer = NodeResponse(bytes(16), names, self.manifest.digest)
        room = self._connection.room(
            answer.to_message(self._topics.answers(self.name, node), 3600)
        )
        room = min(room, MAX_PAYLOAD) - MAX_HEADER
        each = 4 * math.prod(self._dispatcher.output_shape)
        if each > room:
            raise ValueError(
                f"Expected predictions of at most {max(0, room):,} bytes a sample; "
                "raise max_packet_size in the broker's configuration. Received: "
                f"predictions of {each:,} bytes."
            )
        most_members = min(len(names), room // each)
        size = self._connection.room(request.to_message(self._topics.requests(node)))
        return split_samples(x, size, room // (each * most_members)), most_members

    def _submit(self, request, *arguments):
        self._check_open()
        *others, now = arguments
        self._dispatcher.submit(request, now, *others)

    def _check_open(self):
        if self._closed:
            raise ConnectionError("The gateway is closed.")

    def _do(self, event: Callable[..., None], *arguments: Any) -> None:
        """Pass an event to the dispatcher, then do what it decides."""
        dispatcher = self._dispatcher
        with self._changed:
            event(*arguments, time.monotonic())
            outgoing, finished = dispatcher.take()
            batches = {request.context for request in finished}
            finished = [batch for batch in batches if batch.is_finished]
            if dispatcher.due() < self._next:
                self._changed.notify_all()
        for assignment in outgoing:
            self._send(assignment)
        for batch in finished:
            self._resolve(batch)

    def _keep_time(self):
        while not self._closed:
            with self._changed:
                self._next = self._dispatcher.due()
                left = self._next - time.monotonic()
                if left > 0 and not self._closed:
                    self._changed.wait(min(left, threading.TIMEOUT_MAX))
                self._next = math.inf
            self._do(self._dispatcher.tick)

    def _send(self, assignment):
        payload = assignment.request.payload
        timeout = assignment.request.deadline - time.monotonic()
        # Nothing is sent while the connection is lost: `resume` repeats it later.
        if payload and timeout > 0 and self._connection.is_up:
            request = NodeRequest(
                assignment.id, self.name, assignment.members, timeout, payload
            )
            topic = self._topics.requests(assignment.node)
            self._connection.publish(request.to_message(topic))

    def _receive(self, message: Message) -> None:
        """Handle a message, in the client's thread."""
        folder, _, node = message.topic.rpartition("/")
        try:
            check_name(node)
            if folder == self._topics.answers(self.name, "+")[:-2]:
                response = NodeResponse.from_message(message)
                self._do(self._dispatcher.receive, node, response)
            elif not message.payload:
                self._do(self._dispatcher.remove_node, node)
            else:
                self._add_node(node, message)
        except ValueError as error:
            self._do(self._count, "malformed")
            log.debug("Dropped a message that no node sends: %s", error)

    def _add_node(self, node, message):
        description = NodeDescription.from_message(message)
        if message.expires is None:
            raise ValueError("Expected a description that expires.")
        self._do(self._dispatcher.add_node, node, description, message.expires)
        with self._changed:
            self._changed.notify_all()

    def _count(self, key, now):
        self._dispatcher.statistics[key] += 1

    def _resolve(self, batch):
        try:
            batch.future.set_result(self._result(batch.join()))
        except Exception as error:
            batch.future.set_exception(error)

    def _result(self, request):
        quorum = self._dispatcher.quorum
        if self._closed and len(request.results) < quorum:
            raise ConnectionError("The gateway is closed.")
        seconds = time.monotonic() - request.started
        return read_result(request, self.manifest, quorum, seconds)


def _dispatcher(manifest, quorum, max_pending):
    members = tuple(member.name for member in manifest.members)
    quorum = len(members) // 2 + 1 if quorum is None else quorum
    if not 0 < quorum <= len(members):
        raise ValueError(
            f"Expected a quorum from 1 to {len(members)}, the number of members. "
            f"Received: quorum={quorum}."
        )
    return Dispatcher(
        members,
        digest=manifest.digest,
        output_shape=manifest.members[0].output.shape,
        task=manifest.task,
        quorum=quorum,
        max_pending=max_pending,
    )


def _check_deadline(seconds):
    if not 0 < seconds <= MAX_SECONDS:
        raise ValueError(
            f"Expected a deadline of up to {MAX_SECONDS:.0f} s. Received: {seconds}."
        )
    return seconds
