"""Know the nodes and how fast they answer, and choose among them."""

import itertools
import math
import random
from collections import defaultdict, deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from .protocol import NodeDescription
from .request import Assignment

__all__ = ["KnownNode", "Registry"]

#: Weight of the newest latency in a node's exponentially weighted average.
NEWEST = 0.3
#: A node is demoted if it takes longer than so many times the fastest plus seconds.
SLOW_FACTOR, SLOW_SECONDS = 2.0, 0.01
#: Seconds after which a demoted node is sent a copy of an assignment.
PROBE_SECONDS = 2.0
#: Number of latencies kept for each member, and needed for their percentile.
WINDOW, ENOUGH, PERCENTILE = 64, 20, 0.95


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
        asked: Time at which it was last sent an assignment.
        latency: Weighted average of the seconds that it took for an assignment, or of
            those that it was given if it did not answer. `None` if it is unknown.
    """

    name: str
    description: NodeDescription
    expires: float
    assignments: dict[bytes, Assignment] = field(default_factory=dict)
    paused: float = 0.0
    suspect: float = 0.0
    turn: int = 0
    asked: float = -math.inf
    latency: float | None = None

    def has_room(self, now: float) -> bool:
        """Return whether it can take another assignment."""
        return self.paused <= now and len(self.assignments) < self.description.capacity

    def observe(self, seconds: float) -> None:
        """Add the latency of an assignment to the average."""
        before = seconds if self.latency is None else self.latency
        self.latency = before + NEWEST * (seconds - before)

    def expected_latency(self, now: float, default: float) -> float:
        """Return the average, or the age of the oldest open assignment if longer."""
        latency = default if self.latency is None else self.latency
        oldest = next(iter(self.assignments.values()), None)
        return latency if oldest is None else max(latency, now - oldest.sent)


class Registry:
    """Keep the known nodes, and choose among them."""

    def __init__(self) -> None:
        self._nodes: dict[str, KnownNode] = {}
        self._turns = itertools.count(1)
        self._random = random.Random()
        self._seconds: dict[str, deque[float]] = defaultdict(
            lambda: deque(maxlen=WINDOW)
        )
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

        Of two random nodes, the one with the smaller product of expected latency and
        load is chosen ("the power of two choices", Mitzenmacher 2001), of equal ones
        that with fewer open assignments, then the least recently chosen. Nodes with a
        recent invalid response, and then demoted ones, are candidates only if there is
        no other. Nodes that were `chosen` for the same request need no further slot.
        """
        candidates = [
            node
            for node in self.serving(member, excluded)
            if node in chosen or node.has_room(now)
        ]

        candidates = [n for n in candidates if n.suspect <= now] or candidates
        latencies = _latencies(candidates, now)
        fast = [node for node in candidates if not _is_slow(node, latencies)]
        pair = self._random.sample(fast, min(2, len(fast)))

        def rank(node):
            load = len(node.assignments) + (node in chosen)
            return latencies[node] * (load + 1), load, node.turn

        node = min(pair, key=rank, default=None)
        if node is not None:
            node.turn = next(self._turns)
        return node

    def to_probe(
        self, member: str, excluded: Collection[str], now: float
    ) -> KnownNode | None:
        """Return a demoted node with room that was not asked for a while, or `None`."""
        for node in self.serving(member, excluded):
            is_due = now - node.asked >= PROBE_SECONDS and node.has_room(now)
            if is_due and self.is_demoted(node, member, now):
                return node
        return None

    def is_demoted(self, node: KnownNode, member: str, now: float) -> bool:
        """Return whether a node takes much longer than the fastest for a member."""
        return _is_slow(node, _latencies(self.serving(member), now))

    def record(self, member: str, seconds: float) -> None:
        """Add the seconds from a request to its first result of a member."""
        self._seconds[member].append(seconds)

    def usual_seconds(self, members: Sequence[str]) -> float:
        """Return the 95th percentile for the slowest member; infinity if unknown."""
        windows = [self._seconds[member] for member in members]
        if any(len(window) < ENOUGH for window in windows):
            return math.inf
        return max(sorted(window)[int(PERCENTILE * len(window))] for window in windows)

    def expired(self, now: float) -> list[str]:
        """Return the names of the nodes whose description has expired."""
        return [node.name for node in self if node.expires <= now]

    def _update_members(self):
        served = (node.description.members for node in self._nodes.values())
        self.members = frozenset(itertools.chain.from_iterable(served))


def _latencies(nodes, now):
    """Return the expected latency by node; unknown ones are taken to be the best."""
    default = min((n.latency for n in nodes if n.latency is not None), default=0.0)
    return {node: node.expected_latency(now, default) for node in nodes}


def _is_slow(node, latencies):
    limit = SLOW_FACTOR * min(latencies.values()) + SLOW_SECONDS
    return latencies[node] > limit
