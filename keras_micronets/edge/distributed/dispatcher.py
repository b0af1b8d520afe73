"""Decide when a request is over."""

from collections import Counter
from functools import partial

from .message import LRUCache
from .protocol import BUSY, NodeDescription, NodeResponse
from .request import Assignment, Request
from .scheduler import KnownNode, Scheduler

#: Seconds that nodes have to describe themselves again after the broker was lost.
GRACE = 10.0


class OverloadedError(RuntimeError):
    """Say that a gateway has as many requests open as it takes."""


class Dispatcher:
    """Hold the open requests of a gateway and decide what happens next.

    It knows neither MQTT nor threads nor the clock: every event is a method with the
    time it happened at. `take` returns what is to be done then.

    Args:
        members: Names of all members of the bundle, in its order.
        digest: Identity of the bundle.
        classes: Number of classes.
        quorum: Members that must have answered.
        max_pending: The most requests open at a time.

    Attributes:
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
        self.over: list[Request] = []
        self.statistics = Counter()
        self._assigner = Scheduler(members, self.statistics)
        self.roster = self._assigner.roster
        self._answered = LRUCache()
        self._open: dict[Request, None] = {}

    def take(self) -> tuple[list[Assignment], list[Request]]:
        """Return what is to be sent and what is over; each is returned once."""
        sends, self._assigner.sends = self._assigner.sends, []
        over, self.over = self.over, []
        return sends, over

    def submit(self, question: Request, now: float) -> None:
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
        self._assigner.at(question.deadline, partial(self._expire, question))
        self._assigner.assign(question, now)

    def announce(
        self, name: str, description: NodeDescription, lease: float, now: float
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
        self._assigner.ask_again(node, now)
        self._assigner.fill(node, now)

    def lose(self, name: str, now: float) -> None:
        """Strike a node off the list, and ask others for what it was asked."""
        node = self.roster.get(name)
        if node is None:
            return
        self.roster.remove(name)
        asks = [*node.asks.values()]
        for ask in asks:
            self._assigner.withdraw(ask)
        for ask in asks:
            self._assigner.assign(ask.question, now)
        for question in [*self._open]:
            self._settle(question)

    def reply(self, name: str, reply: NodeResponse, now: float) -> None:
        """Take in what a node answers."""
        ask = self._assigner.asks.get(reply.id)
        if ask is None or ask.node != name:
            again = ask is None and self._answered.get(reply.id) == name
            kind = "duplicate" if again else "late" if ask is None else "unasked"
            self.statistics[kind] += 1
            return
        self._assigner.forget(ask)
        if reply.error == BUSY:
            self.statistics["busy"] += 1
            self._assigner.refused(ask, now)
        else:
            self._read(ask, reply, now)
        self._assigner.fill(self.roster.get(name), now)

    def resume(self, now: float) -> None:
        """Send everything again: the connection was lost and is back."""
        for node in self.roster:
            node.expires = min(node.expires, now + GRACE)
        self._assigner.repeat()

    def tick(self, now: float) -> None:
        """Do what is due."""
        self._assigner.tick(now)
        for name in self.roster.expired(now):
            self.lose(name, now)

    def due(self) -> float:
        """Return when `tick` is to be called next; infinity for never."""
        return min([self._assigner.due(), *(node.expires for node in self.roster)])

    def drop_all(self) -> None:
        """Give every request up: the gateway is closed."""
        for question in [*self._open]:
            self._finish(question)

    def _read(self, ask, reply, now):
        question = ask.question
        shape = (question.samples, self.classes)
        try:
            answers = reply.probabilities(ask.members, self.digest, shape)
        except ValueError:
            self.statistics["refused" if reply.error else "invalid"] += 1
            self._assigner.spoilt(ask, now)
            return
        self._answered.put(ask.id, ask.node)
        new = [m for m in ask.members if m not in question.answers]
        if question.over or not new:
            self.statistics["late" if question.over else "duplicate"] += 1
            return
        self.statistics["answers"] += 1
        for member in new:
            probabilities = answers[ask.members.index(member)]
            question.answers[member] = (ask.node, probabilities)
        self._settle(question)

    def _settle(self, question):
        missing = self.roster.members - question.answers.keys()
        missing &= {*self.members}
        if len(question.answers) >= self.quorum and not missing:
            self._finish(question)

    def _expire(self, question, now):
        self._finish(question)
        nodes = [self.roster.get(ask.node) for ask in question.asks.values()]
        for ask in [*question.asks.values()]:
            self._assigner.forget(ask)
        for node in nodes:
            self._assigner.fill(node, now)

    def _finish(self, question):
        if question.over:
            return
        question.over, question.payload = True, b""
        self._open.pop(question)
        self._assigner.drop(question)
        self.over.append(question)
