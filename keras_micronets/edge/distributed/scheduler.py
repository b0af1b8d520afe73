"""Know the nodes, and decide which of them runs which members of a request."""

import heapq
import itertools
import math
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import partial

from .protocol import NodeDescription
from .request import Assignment, Request

__all__ = ["KnownNode", "Registry", "Scheduler"]

#: Seconds without assignments for a node that responded that it is busy.
PAUSE = 0.05
#: Seconds for which other nodes are preferred to one with an invalid response.
SUSPICION = 10.0
#: How often one assignment is sent because of the time.
MAX_SENT = 3


@dataclass(eq=False)
class KnownNode:
    """Keep the state of one node.

    Args:
        name: Its name.
        description: Its latest description.
        expires: Time at which it is removed unless it describes itself again.
        assignments: The assignments it has not answered, by id; each takes a slot.
        paused: Time until which it gets no assignments, since it was busy.
        suspect: Time until which others are preferred, since its response was invalid.
        turn: Count at which it was last chosen.
    """

    name: str
    description: NodeDescription
    expires: float
    assignments: dict[bytes, Assignment] = field(default_factory=dict)
    paused: float = 0.0
    suspect: float = 0.0
    turn: int = 0

    def has_room(self, now: float) -> bool:
        """Return whether it can take another assignment."""
        return self.paused <= now and len(self.assignments) < self.description.capacity


class Registry:
    """Keep the known nodes, and choose among them."""

    def __init__(self) -> None:
        self._nodes: dict[str, KnownNode] = {}
        self._turns = itertools.count(1)
        self.members: frozenset[str] = frozenset()  # those that some node serves

    def __iter__(self) -> Iterator[KnownNode]:
        return iter([*self._nodes.values()])

    def get(self, name: str) -> KnownNode | None:
        """Return a node, or `None` if it is unknown."""
        return self._nodes.get(name)

    def put(self, node: KnownNode) -> None:
        """Add a node, or replace the one of the same name."""
        self._nodes[node.name] = node
        self._update_members()

    def remove(self, name: str) -> None:
        """Remove a node if it is known."""
        self._nodes.pop(name, None)
        self._update_members()

    def serving(self, member: str, excluded: Collection[str] = ()) -> list[KnownNode]:
        """Return the nodes that serve a member, except those excluded by name."""
        return [
            node
            for node in self._nodes.values()
            if member in node.description.members and node.name not in excluded
        ]

    def choose(
        self,
        member: str,
        chosen: Collection[KnownNode],
        excluded: Collection[str],
        now: float,
    ) -> KnownNode | None:
        """Return the node for a member, or `None` if none has room.

        The node with the fewest open assignments is chosen, the least recently chosen
        of several, and one with a recent invalid response only if there is no other.
        Nodes that were `chosen` for the same request need no further slot.
        """
        candidates = [
            node
            for node in self.serving(member, excluded)
            if node in chosen or node.has_room(now)
        ]

        def rank(node):
            load = len(node.assignments) + (node in chosen)
            return node.suspect > now, load, node.turn

        node = min(candidates, key=rank, default=None)
        if node is not None:
            node.turn = next(self._turns)
        return node

    def expired(self, now: float) -> list[str]:
        """Return the names of the nodes whose description has expired."""
        return [node.name for node in self if node.expires <= now]

    def _update_members(self):
        served = (node.description.members for node in self._nodes.values())
        self.members = frozenset(itertools.chain.from_iterable(served))


class Scheduler:
    """Assign the members of requests to nodes, within the nodes' capacities.

    Attributes:
        registry: The nodes.
        outgoing: List of `Assignment`s to send, which the caller empties.
        assignments: The unanswered `Assignment`s, by id.
    """

    def __init__(self, members: tuple[str, ...], statistics: Counter[str]) -> None:
        self.members, self.statistics = members, statistics
        self.registry = Registry()
        self.outgoing: list[Assignment] = []
        self.assignments: dict[bytes, Assignment] = {}
        self._waiting: dict[str, dict[Request, None]] = {m: {} for m in members}
        self._timers: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = itertools.count()

    def assign(self, request: Request, now: float) -> None:
        """Choose nodes for the members that a request needs; without a node they wait.

        Members that go to the same node share an assignment.
        """
        if now >= request.deadline:
            return
        chosen: dict[KnownNode, list[str]] = {}
        for member in self.members:
            if not request.needs(member):
                continue
            tried = request.tried[member]
            node = self.registry.choose(member, chosen, tried, now)
            if node is None:
                self._waiting[member][request] = None
            else:
                self._waiting[member].pop(request, None)
                chosen.setdefault(node, []).append(member)
        step = request.most_members or len(self.members)
        for node, members in chosen.items():
            for start in range(0, len(members), step):
                some = tuple(members[start : start + step])
                self._create(request, node, some, now)

    def fill(self, node: KnownNode | None, now: float) -> None:
        """Give a node with free slots the members that wait for one."""
        if node is None or self.registry.get(node.name) is not node:
            return
        for member in node.description.members:
            for request in [*self._waiting.get(member, ())]:
                if not node.has_room(now):
                    return
                self.assign(request, now)

    def handle_busy(self, assignment: Assignment, now: float) -> None:
        """Pause a busy node for a moment, and ask others meanwhile."""
        self._untry(assignment)
        node = self.registry.get(assignment.node)
        if node is not None:
            node.paused = now + PAUSE
            self.schedule(node.paused, partial(self.fill, node))
        self.assign(assignment.request, now)

    def handle_invalid(self, assignment: Assignment, now: float) -> None:
        """Ask another node after an invalid response, or the same one later."""
        request = assignment.request
        node = self.registry.get(assignment.node)
        if node is not None:
            node.suspect = now + SUSPICION
        self.assign(request, now)
        if any(self._has_no_other(request, member) for member in assignment.members):
            halfway = (now + request.deadline) / 2
            self.schedule(halfway, partial(self._try_again, assignment))

    def resend_to(self, node: KnownNode, now: float) -> None:
        """Repeat the assignments of a node that was away, if it still serves them."""
        for assignment in [*node.assignments.values()]:
            if {*assignment.members} <= {*node.description.members}:
                if not assignment.request.is_finished:
                    self.outgoing.append(assignment)
            else:
                self.withdraw(assignment)
                self.assign(assignment.request, now)

    def resend_all(self) -> None:
        """Repeat all unanswered assignments."""
        self.outgoing += [
            assignment
            for assignment in self.assignments.values()
            if not assignment.request.is_finished
        ]

    def drop(self, request: Request) -> None:
        """Stop waiting for nodes for a finished request; assignments stay open."""
        for waiting in self._waiting.values():
            waiting.pop(request, None)

    def release(self, assignment: Assignment) -> None:
        """Free the slot of an assignment."""
        del self.assignments[assignment.id]
        del assignment.request.assignments[assignment.id]
        node = self.registry.get(assignment.node)
        if node is not None:
            node.assignments.pop(assignment.id, None)

    def withdraw(self, assignment: Assignment) -> None:
        """Free the slot of an assignment that the node cannot answer any more."""
        self.release(assignment)
        self._untry(assignment)

    def schedule(self, when: float, action: Callable[[float], None]) -> None:
        """Call a function with the time once `tick` reaches it."""
        heapq.heappush(self._timers, (when, next(self._order), action))

    def tick(self, now: float) -> None:
        """Run the scheduled functions that are due."""
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2](now)

    def due(self) -> float:
        """Return the time of the next scheduled function, or infinity."""
        return self._timers[0][0] if self._timers else math.inf

    def _create(self, request, node, members, now):
        assignment = Assignment(os.urandom(16), request, node.name, members)
        for table in (self.assignments, request.assignments, node.assignments):
            table[assignment.id] = assignment
        for member in members:
            request.tried[member].add(node.name)
        self._send(assignment, now)

    def _send(self, assignment, now):
        self.outgoing.append(assignment)
        self.statistics["sent_again" if assignment.n_sent else "sent"] += 1
        assignment.n_sent += 1
        halfway = (now + assignment.request.deadline) / 2
        self.schedule(halfway, partial(self._hedge, assignment))

    def _untry(self, assignment):
        for member in assignment.members:
            assignment.request.tried[member].discard(assignment.node)

    def _hedge(self, assignment, now):
        """Ask other nodes after half of the time, or the same one if it is alone."""
        request = assignment.request
        if assignment.id not in self.assignments or request.is_finished:
            return
        assignment.is_trusted = False
        self.assign(request, now)
        if any(self._has_no_other(request, member) for member in assignment.members):
            assignment.is_trusted = True
            for member in assignment.members:
                self._waiting[member].pop(request, None)
            if assignment.n_sent < MAX_SENT:
                self._send(assignment, now)

    def _has_no_other(self, request, member):
        tried = request.tried[member]
        return request.needs(member) and not self.registry.serving(member, tried)

    def _try_again(self, assignment, now):
        for member in assignment.members:
            if self._has_no_other(assignment.request, member):
                assignment.request.tried[member].clear()
        self.assign(assignment.request, now)
