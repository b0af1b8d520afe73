"""What a gateway returns."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..bundle.manifest import Combination
from ..combine import combine


@dataclass(frozen=True)
class Answer:
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


def combine_answers(
    members: tuple[str, ...],
    answers: Mapping[str, tuple[str, np.ndarray]],
    how: Combination,
    seconds: float,
) -> Answer:
    """Return the answer of some of the members.

    Args:
        members: Names of all members, in the bundle's order.
        answers: `(node, probabilities)` by member, for those that answered.
        how: The bundle's combination; weights are scaled to sum to one over the
            members that answered.
        seconds: How long it took.

    Raises:
        ValueError: If those that answered have no weight.
    """
    there = tuple(member for member in members if member in answers)
    probabilities = np.stack([answers[member][1] for member in there])
    weights = how.weights
    if weights is not None:
        chosen = [w for m, w in zip(members, weights, strict=True) if m in answers]
        if not sum(chosen):
            raise ValueError(f"Expected members with weights. Received: {there}.")
        weights = tuple(weight / sum(chosen) for weight in chosen)
    return Answer(
        combine(probabilities, rule=how.rule, weights=weights),
        there,
        {member: answers[member][0] for member in there},
        tuple(member for member in members if member not in answers),
        seconds,
    )
