"""Keep the state of a gateway's request, and combine its result."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..bundle.manifest import Manifest
from ..combine import combine

__all__ = [
    "Assignment",
    "Batch",
    "EnsembleResult",
    "NoQuorumError",
    "Request",
    "read_result",
]


class Request:
    """Keep the state of one request from submission to result.

    Args:
        payload: The inputs, as they are sent.
        samples: Number of samples.
        started, deadline: Times in seconds, by the gateway's clock.
        context: Value that the gateway gets back with the result. Defaults to `None`.
        most_members: Largest number of members in one assignment, so that the response
            fits into a message. Defaults to `None`, no limit.

    Attributes:
        results: `(node, predictions)` by member, the latter of shape
            `(samples, *outputs)`.
        assignments: The unanswered `Assignment`s, by id.
        tried: Names of the nodes that were asked, by member.
        refusals: Errors that nodes reported, by node.
        lost: How often a node was lost while it had an assignment, by node.
        error: Why the request cannot be sent, or `""`.
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
        most_members: int | None = None,
    ) -> None:
        self.payload, self.samples = payload, samples
        self.started, self.deadline = started, deadline
        self.context, self.most_members = context, most_members
        self.refusals: dict[str, str] = {}
        self.lost: Counter[str] = Counter()
        self.error = ""
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


class Batch:
    """Keep the requests into which the samples of one prediction were split.

    Args:
        future: Future of the `EnsembleResult`.

    Attributes:
        parts: The requests, in the order of the samples.
    """

    def __init__(self, future: "Future[EnsembleResult]") -> None:
        self.future = future
        self.parts: list[Request] = []

    @property
    def is_finished(self) -> bool:
        """Whether the outcome of every part has been decided."""
        return all(part.is_finished for part in self.parts)

    def join(self) -> Request:
        """Return one request with the results of the members that answered all parts.

        Its `nodes` are those that answered the first part.
        """
        first = self.parts[0]
        if len(self.parts) == 1:
            return first
        whole = Request(b"", 0, first.started, first.deadline)
        for part in self.parts:
            whole.samples += part.samples
            whole.error = whole.error or part.error
            whole.refusals |= part.refusals
            for member, nodes in part.tried.items():
                whole.tried[member] |= nodes
        for member in set.intersection(*({*part.results} for part in self.parts)):
            arrays = [part.results[member][1] for part in self.parts]
            whole.results[member] = first.results[member][0], np.concatenate(arrays)
        return whole


@dataclass(eq=False)
class Assignment:
    """Assign some members of a request to one node.

    Args:
        id: Identifier of the message; the same when it is repeated.
        request: The request.
        node: Name of the node.
        members: Names of the members.
        sent: Time at which it was first sent.
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
    sent: float
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
        ConnectionError: If the request cannot be sent.
        ValueError: If the weights of those that answered are zero.
    """
    names, results = [m.name for m in manifest.members], request.results
    if request.error:
        raise ConnectionError(request.error)
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
    errors = f" Errors of nodes: {request.refusals}." if request.refusals else ""
    return NoQuorumError(
        f"Expected responses of {quorum} members within {seconds:g} s; check that "
        "nodes with the same bundle are running, or extend the deadline. Received: "
        f"those of {answered}; the others, with the nodes that were asked: {tried}."
        f"{errors}",
        answered,
        tuple(tried),
    )
