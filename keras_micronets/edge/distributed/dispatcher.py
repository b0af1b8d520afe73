"""Decide when a request is finished."""

import dataclasses
from collections import Counter
from functools import partial

from .message import LRUCache
from .protocol import BUSY, NodeDescription, NodeResponse
from .registry import KnownNode
from .request import Assignment, Request
from .scheduler import Scheduler

__all__ = ["Dispatcher", "OverloadedError"]

#: Seconds for nodes to describe themselves again after a lost connection.
GRACE = 10.0


class OverloadedError(RuntimeError):
    """Report that a gateway has reached its limit of open requests."""


class Dispatcher:
    """Keep the open requests of a gateway, and decide how each event changes them.

    It uses neither MQTT nor threads nor a clock: every event is a method call with its
    time. `take` then returns the messages to send and the finished requests.

    Args:
        members: Names of all members of the bundle, in its order.
        digest: Digest of the bundle.
        output_shape: Shape of a sample's prediction.
        quorum: Number of members that must have answered.
        max_pending: Largest number of open requests.
        task: What the members predict. Defaults to `"multiclass"`.
    """

    def __init__(
        self,
        members: tuple[str, ...],
        *,
        digest: str,
        output_shape: tuple[int, ...],
        quorum: int,
        max_pending: int,
        task: str = "multiclass",
    ) -> None:
        self.members, self.digest = members, digest
        self.output_shape, self.task = output_shape, task
        self.quorum, self.max_pending = quorum, max_pending
        self.finished: list[Request] = []
        self.statistics: Counter[str] = Counter()
        self._scheduler = Scheduler(members, self.statistics)
        self.registry = self._scheduler.registry
        self._answered = LRUCache()
        self._open: dict[Request, None] = {}

    def take(self) -> tuple[list[Assignment], list[Request]]:
        """Return the assignments to send and the finished requests, each once."""
        outgoing, self._scheduler.outgoing = self._scheduler.outgoing, []
        finished, self.finished = self.finished, []
        return outgoing, finished

    def submit(self, request: Request, now: float, *others: Request) -> None:
        """Add a request, or raise an `OverloadedError` if too many are open.

        The `others` are further parts of the same batch, which are always accepted.
        """
        if len(self._open) >= self.max_pending:
            self.statistics["rejected"] += 1
            raise OverloadedError(
                f"Expected at most {self.max_pending} requests at a time; wait for "
                "results, or add nodes. Received: one more."
            )
        for part in (request, *others):
            self.statistics["requests"] += 1
            self._open[part] = None
            self._scheduler.schedule(part.deadline, partial(self._expire, part))
            self._scheduler.assign(part, now)

    def fail(self, id: bytes, reason: str, now: float) -> None:
        """Finish the request of an assignment that cannot be sent."""
        assignment = self._scheduler.assignments.get(id)
        if assignment is not None:
            self.statistics["dropped"] += 1
            assignment.request.error = reason
            self._scheduler.release(assignment)
            self._finish(assignment.request)
            self._scheduler.fill(self.registry.get(assignment.node), now)

    def add_node(
        self, name: str, description: NodeDescription, lease: float, now: float
    ) -> None:
        """Add or update a node from its description, valid for `lease` seconds."""
        members = {*description.members} & {*self.members}
        if description.digest != self.digest or not members:
            self.statistics["other_bundle"] += 1
            self.remove_node(name, now)
            return
        node = self.registry.get(name)
        if node is not None and node.description == description:
            node.expires = now + lease
            return
        if node is None:
            node = KnownNode(name, description, now + lease)
        else:  # it keeps its assignments, and what is known of it
            node = dataclasses.replace(
                node, description=description, expires=now + lease, paused=0.0
            )
        self.registry.put(node)
        self._scheduler.resend_to(node, now)
        self._scheduler.fill(node, now)

    def remove_node(self, name: str, now: float) -> None:
        """Remove a node, and give its assignments to others."""
        node = self.registry.get(name)
        if node is None:
            return
        self.registry.remove(name)
        assignments = [*node.assignments.values()]
        for assignment in assignments:
            self._scheduler.withdraw(assignment, is_lost=True)
        for assignment in assignments:
            self._scheduler.assign(assignment.request, now)
        for request in [*self._open]:
            self._finish_if_complete(request)

    def receive(self, name: str, response: NodeResponse, now: float) -> None:
        """Handle the response of a node."""
        assignment = self._scheduler.assignments.get(response.id)
        if assignment is None or assignment.node != name:
            self.statistics[self._classify(name, response, assignment)] += 1
            return
        self._scheduler.release(assignment)
        if response.error == BUSY:
            self.statistics["busy"] += 1
            self._scheduler.handle_busy(assignment, now)
        else:
            self._scheduler.observe(assignment, now)
            self._read(assignment, response, now)
        self._scheduler.fill(self.registry.get(name), now)

    def resume(self, now: float) -> None:
        """Repeat all assignments after a lost connection."""
        for node in self.registry:
            node.expires = min(node.expires, now + GRACE)
        self._scheduler.resend_all()

    def tick(self, now: float) -> None:
        """Do what is due: deadlines, hedges, expired nodes."""
        self._scheduler.tick(now)
        for name in self.registry.expired(now):
            self.remove_node(name, now)

    def due(self) -> float:
        """Return the time of the next `tick`, or infinity."""
        return min([self._scheduler.due(), *(node.expires for node in self.registry)])

    def finish_all(self) -> None:
        """Finish every open request, since the gateway closes."""
        for request in [*self._open]:
            self._finish(request)

    def _classify(self, name, response, assignment):
        if assignment is not None:
            return "unexpected"
        return "duplicate" if self._answered.get(response.id) == name else "late"

    def _read(self, assignment, response, now):
        request = assignment.request
        shape = (request.samples, *self.output_shape)
        try:
            arrays = response.predictions(
                assignment.members, self.digest, shape, self.task
            )
        except ValueError:
            self.statistics["refused" if response.error else "invalid"] += 1
            if response.error:
                request.refusals[assignment.node] = response.error[:200]
            self._scheduler.handle_invalid(assignment, now)
            return
        self._answered.put(assignment.id, assignment.node)
        new = [m for m in assignment.members if m not in request.results]
        if request.is_finished or not new:
            self.statistics["late" if request.is_finished else "duplicate"] += 1
            return
        self.statistics["answers"] += 1
        for member in new:
            predictions = arrays[assignment.members.index(member)]
            request.results[member] = (assignment.node, predictions)
            self._scheduler.record(request, member, now)
        self._finish_if_complete(request)

    def _finish_if_complete(self, request):
        missing = self.registry.members - request.results.keys()
        missing &= {*self.members}
        if len(request.results) >= self.quorum and not missing:
            self._finish(request)

    def _expire(self, request, now):
        self._finish(request)
        assignments = [*request.assignments.values()]
        nodes = [self.registry.get(assignment.node) for assignment in assignments]
        for assignment in assignments:
            self._scheduler.observe(assignment, now)
            self._scheduler.release(assignment)
        for node in nodes:
            self._scheduler.fill(node, now)

    def _finish(self, request):
        if request.is_finished:
            return
        request.is_finished, request.payload = True, b""
        self._open.pop(request)
        self._scheduler.drop(request)
        self.finished.append(request)
