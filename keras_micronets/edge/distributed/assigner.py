"""Decide which node is asked for what."""

import heapq
import itertools
import math
import os
from collections import Counter
from collections.abc import Callable
from functools import partial

from .question import Ask, Question
from .roster import KnownNode, Roster

#: Seconds for which a node that said that it is busy is left alone.
PAUSE = 0.05
#: Seconds for which a node that answered nonsense is asked only if no other can be.
SUSPICION = 10.0
#: How often a node is sent the same by the clock alone.
MAX_SENT = 3


class Assigner:
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
        self.roster, self.sends = Roster(), []
        self.asks: dict[bytes, Ask] = {}
        self._waiting: dict[str, dict[Question, None]] = {m: {} for m in members}
        self._timers = []
        self._order = itertools.count()

    def assign(self, question: Question, now: float) -> None:
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

    def refused(self, ask: Ask, now: float) -> None:
        """Leave a busy node alone for a moment, and ask others meanwhile."""
        self._untry(ask)
        node = self.roster.get(ask.node)
        node.paused = now + PAUSE
        self.at(node.paused, partial(self.fill, node))
        self.assign(ask.question, now)

    def spoilt(self, ask: Ask, now: float) -> None:
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

    def drop(self, question: Question) -> None:
        """Let a question that is over wait no more; nodes may still be at it."""
        for waiting in self._waiting.values():
            waiting.pop(question, None)

    def forget(self, ask: Ask) -> None:
        """Free the slot of an ask."""
        del self.asks[ask.id], ask.question.asks[ask.id]
        node = self.roster.get(ask.node)
        if node is not None:
            node.asks.pop(ask.id, None)

    def withdraw(self, ask: Ask) -> None:
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
        ask = Ask(os.urandom(16), question, name, members)
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
