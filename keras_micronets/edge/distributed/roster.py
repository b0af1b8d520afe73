"""The nodes that a gateway knows."""

import itertools
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from .description import Description
from .question import Ask


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
    description: Description
    expires: float
    asks: dict[bytes, Ask] = field(default_factory=dict)
    paused: float = 0.0
    suspect: float = 0.0
    turn: int = 0

    def has_room(self, now: float) -> bool:
        """Return whether it may be asked one thing more."""
        return self.paused <= now and len(self.asks) < self.description.capacity


class Roster:
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
