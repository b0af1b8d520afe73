"""Decide which node is asked for what, and when a request is over."""

import heapq
import itertools
import math
import os
from collections import Counter
from functools import partial

from .description import Description
from .question import Ask, Question
from .recent import Recent
from .reply import BUSY, Reply
from .roster import KnownNode, Roster

#: Seconds for which a node that said that it is busy is left alone.
PAUSE = 0.05
#: Seconds for which a node that answered nonsense is asked only if no other can be.
SUSPICION = 10.0
#: Seconds that nodes have to describe themselves again after the broker was lost.
GRACE = 10.0
#: How often a node is sent the same by the clock alone.
MAX_SENT = 3


class OverloadedError(RuntimeError):
    """Say that a gateway has as many requests open as it takes."""


class Dispatcher:
    """Hold the open requests of a gateway and decide what happens next.

    It knows neither MQTT nor threads nor the clock: every event is a method with the
    time it happened at. What is to be done then is in `sends` and `over`.

    Args:
        members: Names of all members of the bundle, in its order.
        digest: Identity of the bundle.
        classes: Number of classes.
        quorum: Members that must have answered.
        max_pending: The most requests open at a time.

    Attributes:
        sends: List of `Ask`s to send, to be emptied by the caller.
        over: List of `Question`s that are over, to be emptied by the caller.
        roster: The nodes.
        statistics: Counts of what happened.
    """

    def __init__(
        self,
        members: tuple[str, ...],
        *,
        digest: str,
        classes: int,
        quorum: int,
        max_pending: int,
    ):
        self.members, self.digest, self.classes = members, digest, classes
        self.quorum, self.max_pending = quorum, max_pending
        self.roster = Roster()
        self.sends: list[Ask] = []
        self.over: list[Question] = []
        self.statistics = Counter()
        self._asks: dict[bytes, Ask] = {}
        self._answered = Recent()
        self._open: dict[Question, None] = {}
        self._waiting: dict[str, dict[Question, None]] = {m: {} for m in members}
        self._timers = []
        self._order = itertools.count()

    def submit(self, question: Question, now: float) -> None:
        """Take a request in.

        Raises:
            OverloadedError: If too many are open.
        """
        if len(self._open) >= self.max_pending:
            self.statistics["rejected"] += 1
            raise OverloadedError(
                f"Expected at most {self.max_pending} requests at a time; wait for "
                "answers, or add nodes. Received: one more."
            )
        self.statistics["requests"] += 1
        self._open[question] = None
        self._at(question.deadline, partial(self._expire, question))
        self._assign(question, now)

    def announce(
        self, name: str, description: Description, lease: float, now: float
    ) -> None:
        """Take in what a node says of itself, for so many seconds."""
        members = {*description.members} & {*self.members}
        if description.digest != self.digest or not members:
            self.statistics["other_bundle"] += 1
            self.lose(name, now)
            return
        node = self.roster.get(name)
        if node is not None and node.description == description:
            node.expires = now + lease
            return
        asks = node.asks if node else {}
        node = KnownNode(name, description, now + lease, asks)
        self.roster.put(node)
        self._ask_again(node, now)
        self._fill(node, now)

    def lose(self, name: str, now: float) -> None:
        """Strike a node off the list, and ask others for what it was asked."""
        node = self.roster.get(name)
        if node is None:
            return
        self.roster.remove(name)
        asks = [*node.asks.values()]
        for ask in asks:
            self._forget(ask)
        for ask in asks:
            self._assign(ask.question, now)
        for question in [*self._open]:
            self._settle(question)

    def reply(self, name: str, reply: Reply, now: float) -> None:
        """Take in what a node answers."""
        ask = self._asks.get(reply.id)
        if ask is None or ask.node != name:
            again = ask is None and self._answered.get(reply.id) == name
            kind = "duplicate" if again else "late" if ask is None else "unasked"
            self.statistics[kind] += 1
            return
        self._forget(ask)
        node = self.roster.get(name)
        if reply.error:
            self._refused(ask, node, reply.error, now)
        else:
            self._read(ask, node, reply, now)
        self._fill(node, now)

    def resume(self, now: float) -> None:
        """Send everything again: the connection was lost and is back."""
        for node in self.roster:
            node.expires = min(node.expires, now + GRACE)
        self.sends += [a for a in self._asks.values() if not a.question.over]

    def tick(self, now: float) -> None:
        """Do what is due."""
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2](now)
        for name in self.roster.expired(now):
            self.lose(name, now)

    def due(self) -> float:
        """Return when `tick` is to be called next; infinity for never."""
        first = self._timers[0][0] if self._timers else math.inf
        return min([first, *(node.expires for node in self.roster)])

    def drop_all(self) -> None:
        """Give every request up: the gateway is closed."""
        for question in [*self._open]:
            self._finish(question)

    def _assign(self, question, now):
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

    def _ask(self, question, name, members, now):
        ask = Ask(os.urandom(16), question, name, members)
        for table in (self._asks, question.asks, self.roster.get(name).asks):
            table[ask.id] = ask
        for member in members:
            question.tried[member].add(name)
        self._send(ask, now)

    def _send(self, ask, now):
        self.sends.append(ask)
        self.statistics["sent_again" if ask.sent else "sent"] += 1
        ask.sent += 1
        self._at((now + ask.question.deadline) / 2, partial(self._doubt, ask))

    def _doubt(self, ask, now):
        """Ask others, half of the time being gone; the same where there is none."""
        question = ask.question
        if ask.id not in self._asks or question.over:
            return
        ask.trusted = False
        self._assign(question, now)
        if any(self._stranded(question, member) for member in ask.members):
            ask.trusted = True
            for member in ask.members:
                self._waiting[member].pop(question, None)
            if ask.sent < MAX_SENT:
                self._send(ask, now)

    def _stranded(self, question, member):
        tried = question.tried[member]
        return question.wants(member) and not self.roster.serving(member, tried)

    def _refused(self, ask, node, error, now):
        self.statistics["busy" if error == BUSY else "refused"] += 1
        if error != BUSY:
            self._retry(ask, now)
            return
        for member in ask.members:
            ask.question.tried[member].discard(node.name)
        node.paused = now + PAUSE
        self._at(node.paused, partial(self._fill, node))
        self._assign(ask.question, now)

    def _read(self, ask, node, reply, now):
        question = ask.question
        shape = (question.samples, self.classes)
        try:
            answers = reply.probabilities(ask.members, self.digest, shape)
        except ValueError:
            self.statistics["invalid"] += 1
            node.suspect = now + SUSPICION
            self._retry(ask, now)
            return
        self._answered.put(ask.id, node.name)
        new = [m for m in ask.members if m not in question.answers]
        if question.over or not new:
            self.statistics["late" if question.over else "duplicate"] += 1
            return
        self.statistics["answers"] += 1
        for member in new:
            probabilities = answers[ask.members.index(member)]
            question.answers[member] = (node.name, probabilities)
        self._settle(question)

    def _retry(self, ask, now):
        """Ask another node, or else the same one in a while."""
        question = ask.question
        self._assign(question, now)
        if any(self._stranded(question, member) for member in ask.members):
            self._at((now + question.deadline) / 2, partial(self._once_more, ask))

    def _once_more(self, ask, now):
        for member in ask.members:
            if self._stranded(ask.question, member):
                ask.question.tried[member].clear()
        self._assign(ask.question, now)

    def _ask_again(self, node, now):
        """Repeat to a node that was away what it had been asked."""
        for ask in [*node.asks.values()]:
            if {*ask.members} <= {*node.description.members}:
                if not ask.question.over:
                    self.sends.append(ask)
            else:
                self._forget(ask)
                self._assign(ask.question, now)
        for question in self._open:
            for member in node.description.members:
                held = any(node.name == ask.node for ask in question.asks.values())
                if not held:
                    question.tried[member].discard(node.name)

    def _fill(self, node, now):
        """Give a node that has room what waits for it."""
        if self.roster.get(node.name) is not node:
            return
        for member in node.description.members:
            for question in [*self._waiting.get(member, ())]:
                if not node.has_room(now):
                    return
                self._assign(question, now)

    def _settle(self, question):
        missing = self.roster.members - question.answers.keys()
        missing &= {*self.members}
        if len(question.answers) >= self.quorum and not missing:
            self._finish(question)

    def _expire(self, question, now):
        self._finish(question)
        nodes = [self.roster.get(ask.node) for ask in question.asks.values()]
        for ask in [*question.asks.values()]:
            self._forget(ask)
        for node in nodes:
            self._fill(node, now)

    def _finish(self, question):
        if question.over:
            return
        question.over, question.payload = True, b""
        self._open.pop(question)
        for waiting in self._waiting.values():
            waiting.pop(question, None)
        self.over.append(question)

    def _forget(self, ask):
        del self._asks[ask.id], ask.question.asks[ask.id]
        node = self.roster.get(ask.node)
        if node is not None:
            node.asks.pop(ask.id, None)

    def _at(self, when, what):
        heapq.heappush(self._timers, (when, next(self._order), what))
