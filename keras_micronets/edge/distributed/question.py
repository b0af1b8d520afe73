"""One request in a gateway, and what nodes were asked because of it."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np


class Question:
    """Keep what is known of one request.

    Args:
        payload: The inputs, as they are sent.
        samples: How many they are.
        started, deadline: Seconds of the gateway's clock.
        context: What the gateway wants back with the result. Defaults to `None`.

    Attributes:
        answers: `(node, probabilities)` by member, the latter of shape
            `(samples, classes)`.
        asks: The `Ask`s that no node has answered yet, by id.
        tried: Names of the nodes asked, by member.
        over: Whether the result is out; the rest is for the nodes' slots.
    """

    def __init__(
        self,
        payload: bytes,
        samples: int,
        started: float,
        deadline: float,
        context: Any = None,
    ):
        self.payload, self.samples = payload, samples
        self.started, self.deadline = started, deadline
        self.context = context
        self.answers: dict[str, tuple[str, np.ndarray]] = {}
        self.asks: dict[bytes, Ask] = {}
        self.tried: dict[str, set[str]] = defaultdict(set)
        self.over = False

    def wants(self, member: str) -> bool:
        """Return whether nobody has answered for a member, or is about to."""
        return not (
            self.over
            or member in self.answers
            or any(a.trusted and member in a.members for a in self.asks.values())
        )


@dataclass(eq=False)
class Ask:
    """Ask one node for some members of a question.

    Args:
        id: Identity of this message and of its repetitions.
        question: The question.
        node: Name of the node.
        members: Names of the members.
        sent: How often it was sent by the clock. Defaults to `0`.
        trusted: Whether an answer is still expected in time; where not, others
            are asked. Defaults to `True`.
    """

    id: bytes
    question: Question
    node: str
    members: tuple[str, ...]
    sent: int = 0
    trusted: bool = True
