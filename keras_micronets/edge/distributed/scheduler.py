"""Decide which nodes run which members of a request, and when others are asked."""

import heapq
import itertools
import math
import os
from collections import Counter
from collections.abc import Callable
from functools import partial

from .registry import KnownNode, Registry
from .request import Assignment, Request

__all__ = ["Scheduler"]

#: Seconds without assignments for a node that responded that it is busy.
PAUSE = 0.05
#: Seconds for which other nodes are preferred to one with an invalid response.
SUSPICION = 10.0
#: How often one assignment is sent because of the time.
MAX_SENT = 3
#: How often a node may be lost with a request before it is not asked again.
MAX_LOST = 2
#: Share of answers, and largest number at once, that may be hedged before half of the
#: time: requests that suddenly take longer must not double the load.
HEDGES, MAX_HEDGES = 0.1, 10.0


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
        self._hedges = MAX_HEDGES  # number allowed before half of the time

    def assign(self, request: Request, now: float) -> None:
        """Choose nodes for the members that a request needs; without a node they wait.

        Members that go to the same node share an assignment. Now and then a demoted
        node is sent a copy, for which the request does not wait.
        """
        if now >= request.deadline:
            return
        chosen: dict[KnownNode, list[str]] = {}
        probes: dict[KnownNode, list[str]] = {}
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
                probe = self.registry.to_probe(member, {*tried, node.name}, now)
                if probe is not None:
                    probes.setdefault(probe, []).append(member)
        step = request.most_members or len(self.members)
        for node, members in chosen.items():
            for start in range(0, len(members), step):
                some = tuple(members[start : start + step])
                self._create(request, node, some, now)
        for node, members in probes.items():
            if node not in chosen:
                self.statistics["probes"] += 1
                self._create(request, node, tuple(members[:step]), now, is_probe=True)

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

    def observe(self, assignment: Assignment, now: float) -> None:
        """Learn from the time that a node took, or had, to answer an assignment."""
        node = self.registry.get(assignment.node)
        if node is not None:
            node.observe(now - assignment.sent)

    def record(self, request: Request, member: str, now: float) -> None:
        """Learn from the first result of a member when to ask another node."""
        self._hedges = min(MAX_HEDGES, self._hedges + HEDGES)
        self.registry.record(member, now - request.started)

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

    def withdraw(self, assignment: Assignment, *, is_lost: bool = False) -> None:
        """Free the slot of an assignment that the node cannot answer any more.

        A node that is lost again with the same request may be lost because of it, and
        is not asked again.
        """
        self.release(assignment)
        request, node = assignment.request, assignment.node
        request.lost[node] += is_lost
        if request.lost[node] < MAX_LOST:
            self._untry(assignment)
        else:
            request.refusals[node] = f"it was lost {MAX_LOST} times with the request"

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

    def _create(self, request, node, members, now, is_probe=False):
        assignment = Assignment(os.urandom(16), request, node.name, members, now)
        assignment.is_trusted, node.asked = not is_probe, now
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
        unusual = now + self.registry.usual_seconds(assignment.members)
        if unusual < halfway and assignment.n_sent == 1 and assignment.is_trusted:
            self.schedule(unusual, partial(self._hedge_early, assignment))
        self.schedule(halfway, partial(self._hedge, assignment))

    def _untry(self, assignment):
        for member in assignment.members:
            assignment.request.tried[member].discard(assignment.node)

    def _hedge_early(self, assignment, now):
        """Ask a fast node with room after the 95th percentile of the usual time."""
        request, registry = assignment.request, self.registry
        can_help = any(
            node.has_room(now) and not registry.is_demoted(node, member, now)
            for member in assignment.members
            for node in registry.serving(member, request.tried[member])
        )
        is_open = assignment.id in self.assignments and not request.is_finished
        if is_open and can_help and self._hedges >= 1:
            self._hedges -= 1
            self.statistics["hedges"] += 1
            assignment.is_trusted = False
            self.assign(request, now)

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
