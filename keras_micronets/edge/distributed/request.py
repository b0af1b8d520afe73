"""One request in a gateway, and what nodes were asked because of it."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..bundle.manifest import Manifest
from ..combine import combine


class Request:
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
        self.asks: dict[bytes, Assignment] = {}
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
class Assignment:
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
    question: Request
    node: str
    members: tuple[str, ...]
    sent: int = 0
    trusted: bool = True


@dataclass(frozen=True)
class EnsembleResult:
    """Hold what the members that answered say together.

    Args:
        probabilities: `float32` array of shape `(samples, classes)`: the `combine`
            of the members named here, and of no others.
        members: Names of the members that answered, in the bundle's order.
        nodes: Name of the node that answered, by member.
        missing: Names of the members that did not answer.
        seconds: Time from the request to the answer.
    """

    probabilities: np.ndarray
    members: tuple[str, ...]
    nodes: Mapping[str, str]
    missing: tuple[str, ...]
    seconds: float


class NoQuorumError(TimeoutError):
    """Say that too few members answered before the deadline.

    Attributes:
        members: Names of the members that answered.
        missing: Names of those that did not.
    """

    def __init__(self, message: str, members=(), missing=()):
        super().__init__(message)
        self.members, self.missing = tuple(members), tuple(missing)


def read_answer(
    question: Request, manifest: Manifest, quorum: int, seconds: float
) -> EnsembleResult:
    """Return the answer to a question that is over.

    Args:
        question: The question, with what members answered.
        manifest: That of the bundle. Its weights are scaled to sum to one over the
            members that answered.
        quorum: How many must have answered.
        seconds: How long it took.

    Raises:
        NoQuorumError: If fewer answered.
        ValueError: If those that answered have no weight.
    """
    names, answers = [m.name for m in manifest.members], question.answers
    if len(answers) < quorum:
        raise _no_quorum(question, names, quorum)
    there = tuple(name for name in names if name in answers)
    how = manifest.combination
    probabilities = np.stack([answers[name][1] for name in there])
    weights = _weights(names, how.weights, there)
    return EnsembleResult(
        combine(probabilities, rule=how.rule, weights=weights),
        there,
        {name: answers[name][0] for name in there},
        tuple(name for name in names if name not in answers),
        seconds,
    )


def _weights(names, weights, there):
    if weights is None:
        return None
    chosen = [w for name, w in zip(names, weights, strict=True) if name in there]
    if not sum(chosen):
        raise ValueError(f"Expected members with weights. Received: {there}.")
    return tuple(weight / sum(chosen) for weight in chosen)


def _no_quorum(question, names, quorum):
    there = [name for name in names if name in question.answers]
    asked = {n: sorted(question.tried[n]) for n in names if n not in there}
    seconds = question.deadline - question.started
    return NoQuorumError(
        f"Expected answers of {quorum} members within {seconds:g} s; check that nodes "
        f"with this very bundle run, or allow more time. Received: those of {there}; "
        f"none of these, with the nodes that were asked: {asked}.",
        there,
        asked,
    )
