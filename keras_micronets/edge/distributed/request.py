"""Keep the state of a gateway's request, and combine its result."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..bundle.manifest import Manifest
from ..combine import combine

__all__ = ["Assignment", "EnsembleResult", "NoQuorumError", "Request", "read_result"]


class Request:
    """Keep the state of one request from submission to result.

    Args:
        payload: The inputs, as they are sent.
        samples: Number of samples.
        started, deadline: Times in seconds, by the gateway's clock.
        context: Value that the gateway gets back with the result. Defaults to `None`.

    Attributes:
        results: `(node, predictions)` by member, the latter of shape
            `(samples, *outputs)`.
        assignments: The unanswered `Assignment`s, by id.
        tried: Names of the nodes that were asked, by member.
        is_finished: Whether the outcome has been decided. Assignments may remain open,
            since they still occupy the nodes.
    """

    def __init__(
        self,
        payload: bytes,
        samples: int,
        started: float,
        deadline: float,
        context: Any = None,
    ) -> None:
        self.payload, self.samples = payload, samples
        self.started, self.deadline = started, deadline
        self.context = context
        self.results: dict[str, tuple[str, np.ndarray]] = {}
        self.assignments: dict[bytes, Assignment] = {}
        self.tried: dict[str, set[str]] = defaultdict(set)
        self.is_finished = False

    def needs(self, member: str) -> bool:
        """Return whether a member has no result, and none is expected in time."""
        return not (
            self.is_finished
            or member in self.results
            or any(
                assignment.is_trusted and member in assignment.members
                for assignment in self.assignments.values()
            )
        )


@dataclass(eq=False)
class Assignment:
    """Assign some members of a request to one node.

    Args:
        id: Identifier of the message; the same when it is repeated.
        request: The request.
        node: Name of the node.
        members: Names of the members.
        n_sent: Number of times it was sent: once, and again, up to three times in all,
            when half of the remaining time has passed and no other node can help.
            Repeats after a lost connection do not count.
        is_trusted: Whether a response is still expected in time. If not, other nodes
            are asked as well.
    """

    id: bytes
    request: Request
    node: str
    members: tuple[str, ...]
    n_sent: int = 0
    is_trusted: bool = True


@dataclass(frozen=True)
class EnsembleResult:
    """Hold the combined prediction of the members that answered.

    Args:
        probabilities: `float32` array of shape `(samples, *outputs)`: the predictions
            of the members named here, and no others, combined as the bundle defines.
            They are numbers for tasks without classes.
        members: Names of the members that answered, in the bundle's order.
        nodes: Name of the node that answered, by member.
        missing: Names of the members that did not answer.
        seconds: Time from the request to the result.
    """

    probabilities: np.ndarray
    members: tuple[str, ...]
    nodes: Mapping[str, str]
    missing: tuple[str, ...]
    seconds: float


class NoQuorumError(TimeoutError):
    """Report that too few members answered before the deadline.

    Attributes:
        members, missing: Names of the members that did or did not answer.
    """

    def __init__(
        self, message: str, members: Sequence[str] = (), missing: Sequence[str] = ()
    ) -> None:
        super().__init__(message)
        self.members, self.missing = tuple(members), tuple(missing)


def read_result(
    request: Request, manifest: Manifest, quorum: int, seconds: float
) -> EnsembleResult:
    """Return the result of a finished request that took some `seconds`.

    The manifest's weights are scaled to sum to one over the members that answered.

    Raises:
        NoQuorumError: If fewer members answered than the quorum.
        ValueError: If the weights of those that answered are zero.
    """
    names, results = [m.name for m in manifest.members], request.results
    if len(results) < quorum:
        raise _no_quorum(request, names, quorum)
    answered = tuple(name for name in names if name in results)
    combination = manifest.combination
    probabilities = np.stack([results[name][1] for name in answered])
    weights = _weights(names, combination.weights, answered)
    return EnsembleResult(
        combine(
            probabilities,
            rule=combination.rule,
            weights=weights,
            temperature=combination.temperature,
            task=combination.task,
        ),
        answered,
        {name: results[name][0] for name in answered},
        tuple(name for name in names if name not in results),
        seconds,
    )


def _weights(names, weights, answered):
    if weights is None:
        return None
    chosen = [w for name, w in zip(names, weights, strict=True) if name in answered]
    if not sum(chosen):
        raise ValueError(
            f"Expected members with positive weights. Received: {answered}."
        )
    return tuple(weight / sum(chosen) for weight in chosen)


def _no_quorum(request, names, quorum):
    answered = [name for name in names if name in request.results]
    tried = {n: sorted(request.tried[n]) for n in names if n not in answered}
    seconds = request.deadline - request.started
    return NoQuorumError(
        f"Expected responses of {quorum} members within {seconds:g} s; check that "
        "nodes with the same bundle are running, or extend the deadline. Received: "
        f"those of {answered}; the others, with the nodes that were asked: {tried}.",
        answered,
        tuple(tried),
    )
