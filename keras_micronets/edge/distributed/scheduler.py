"""The nodes that a gateway knows."""

import heapq
import itertools
import math
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from functools import partial

from .protocol import NodeDescription
from .request import Assignment, Request


@dataclass(eq=False)
class KnownNode:
    """Keep what a gateway knows of one node.

    Args:
        name: Its name.
        description: What it says of itself.
        expires: When it is forgotten unless it describes itself again.
        asks: What it was asked and has not answered, by id; each takes a slot.
        paused: Until when it is left alone, having said that it is busy.
        suspect: Until when others are preferred, its answer having been invalid.
        turn: When it was asked last, as a count.
    """

    name: str
    description: NodeDescription
    expires: float
    asks: dict[bytes, Assignment] = field(default_factory=dict)
    paused: float = 0.0
    suspect: float = 0.0
    turn: int = 0

    def has_room(self, now: float) -> bool:
        """Return whether it may be asked one thing more."""
        return self.paused <= now and len(self.asks) < self.description.capacity


class Registry:
    """Know the nodes, and choose among them.

    Attributes:
        members: Names of the members that some node serves.
    """

    def __init__(self):
        self._nodes: dict[str, KnownNode] = {}
        self._turns = itertools.count(1)
        self.members: frozenset[str] = frozenset()

    def __iter__(self):
        return iter([*self._nodes.values()])

    def get(self, name: str) -> KnownNode | None:
        """Return a node, or `None` if it is not known."""
        return self._nodes.get(name)

    def put(self, node: KnownNode) -> None:
        """Take a node in, in place of one of the same name."""
        self._nodes[node.name] = node
        self._count()

    def remove(self, name: str) -> None:
        """Forget a node."""
        self._nodes.pop(name, None)
        self._count()

    def serving(self, member: str, but: Collection[str] = ()) -> list[KnownNode]:
        """Return the nodes that serve a member, without some."""
        return [
            node
            for node in self._nodes.values()
            if member in node.description.members and node.name not in but
        ]

    def choose(
        self, member: str, chosen: Collection[str], but: Collection[str], now: float
    ) -> KnownNode | None:
        """Return the node to ask for a member, if one can take it.

        Args:
            member: Name of the member.
            chosen: Names of nodes that are to be asked for other members of the
                same request: this takes no further slot of theirs.
            but: Names of nodes not to ask.
            now: The time.

        Returns:
            The one with the fewest requests in flight, by turns; `None` if none
            has room.
        """
        able = [
            node
            for node in self.serving(member, but)
            if node.name in chosen or node.has_room(now)
        ]

        def rank(node):
            load = len(node.asks) + (node.name in chosen)
            return node.suspect > now, load, node.turn

        node = min(able, key=rank, default=None)
        if node is not None:
            node.turn = next(self._turns)
        return node

    def expired(self, now: float) -> Iterable[str]:
        """Return the names of the nodes that have not described themselves lately."""
        return [node.name for node in self if node.expires <= now]

    def _count(self):
        served = (node.description.members for node in self._nodes.values())
        self.members = frozenset(itertools.chain.from_iterable(served))


#: Seconds for which a node that said that it is busy is left alone.
PAUSE = 0.05
#: Seconds for which a node that answered nonsense is asked only if no other can be.
SUSPICION = 10.0
#: How often a node is sent the same by the clock alone.
MAX_SENT = 3


class Scheduler:
    """Give the members of questions to nodes, within the nodes' capacities.

    Args:
        members: Names of all members of the bundle, in its order.
        statistics: Where to count what is sent.

    Attributes:
        roster: The nodes.
        sends: List of `Ask`s to send, to be emptied by the caller.
        asks: The `Ask`s that no node has answered yet, by id.
    """

    def __init__(self, members: tuple[str, ...], statistics: Counter):
        self.members, self.statistics = members, statistics
        self.roster, self.sends = Registry(), []
        self.asks: dict[bytes, Assignment] = {}
        self._waiting: dict[str, dict[Request, None]] = {m: {} for m in members}
        self._timers = []
        self._order = itertools.count()

    def assign(self, question: Request, now: float) -> None:
        """Ask nodes for what a question wants; what none can take now waits."""
        if now >= question.deadline:
            return
        chosen = {}
        for member in self.members:
            if not question.wants(member):
                continue
            node = self.roster.choose(member, chosen, question.tried[member], now)
            if node is None:
                self._waiting[member][question] = None
            else:
                self._waiting[member].pop(question, None)
                chosen.setdefault(node.name, []).append(member)
        for name, members in chosen.items():
            self._ask(question, name, tuple(members), now)

    def fill(self, node: KnownNode, now: float) -> None:
        """Give a node that has room what waits for it."""
        if self.roster.get(node.name) is not node:
            return
        for member in node.description.members:
            for question in [*self._waiting.get(member, ())]:
                if not node.has_room(now):
                    return
                self.assign(question, now)

    def refused(self, ask: Assignment, now: float) -> None:
        """Leave a busy node alone for a moment, and ask others meanwhile."""
        self._untry(ask)
        node = self.roster.get(ask.node)
        node.paused = now + PAUSE
        self.at(node.paused, partial(self.fill, node))
        self.assign(ask.question, now)

    def spoilt(self, ask: Assignment, now: float) -> None:
        """Ask another node after an invalid answer, or the same one in a while."""
        question = ask.question
        self.roster.get(ask.node).suspect = now + SUSPICION
        self.assign(question, now)
        if any(self._stranded(question, member) for member in ask.members):
            self.at((now + question.deadline) / 2, partial(self._once_more, ask))

    def ask_again(self, node: KnownNode, now: float) -> None:
        """Repeat to a node that was away what it had been asked."""
        for ask in [*node.asks.values()]:
            if {*ask.members} <= {*node.description.members}:
                if not ask.question.over:
                    self.sends.append(ask)
            else:
                self.withdraw(ask)
                self.assign(ask.question, now)

    def repeat(self) -> None:
        """Send everything again that is not answered."""
        self.sends += [ask for ask in self.asks.values() if not ask.question.over]

    def drop(self, question: Request) -> None:
        """Let a question that is over wait no more; nodes may still be at it."""
        for waiting in self._waiting.values():
            waiting.pop(question, None)

    def forget(self, ask: Assignment) -> None:
        """Free the slot of an ask."""
        del self.asks[ask.id], ask.question.asks[ask.id]
        node = self.roster.get(ask.node)
        if node is not None:
            node.asks.pop(ask.id, None)

    def withdraw(self, ask: Assignment) -> None:
        """Free the slot of an ask that the node cannot answer any more."""
        self.forget(ask)
        self._untry(ask)

    def at(self, when: float, what: Callable[[float], None]) -> None:
        """Have something done at a time."""
        heapq.heappush(self._timers, (when, next(self._order), what))

    def tick(self, now: float) -> None:
        """Do what is due."""
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2](now)

    def due(self) -> float:
        """Return when `tick` is to be called next; infinity for never."""
        return self._timers[0][0] if self._timers else math.inf

    def _ask(self, question, name, members, now):
        ask = Assignment(os.urandom(16), question, name, members)
        for table in (self.asks, question.asks, self.roster.get(name).asks):
            table[ask.id] = ask
        for member in members:
            question.tried[member].add(name)
        self._send(ask, now)

    def _send(self, ask, now):
        self.sends.append(ask)
        self.statistics["sent_again" if ask.sent else "sent"] += 1
        ask.sent += 1
        self.at((now + ask.question.deadline) / 2, partial(self._doubt, ask))

    def _untry(self, ask):
        for member in ask.members:
            ask.question.tried[member].discard(ask.node)

    def _doubt(self, ask, now):
        """Ask others, half of the time being gone; the same where there is none."""
        question = ask.question
        if ask.id not in self.asks or question.over:
            return
        ask.trusted = False
        self.assign(question, now)
        if any(self._stranded(question, member) for member in ask.members):
            ask.trusted = True
            for member in ask.members:
                self._waiting[member].pop(question, None)
            if ask.sent < MAX_SENT:
                self._send(ask, now)

    def _stranded(self, question, member):
        tried = question.tried[member]
        return question.wants(member) and not self.roster.serving(member, tried)

    def _once_more(self, ask, now):
        for member in ask.members:
            if self._stranded(ask.question, member):
                ask.question.tried[member].clear()
        self.assign(ask.question, now)
