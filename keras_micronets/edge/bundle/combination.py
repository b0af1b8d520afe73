"""How the members of a bundle are combined."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Combination:
    """Say how the members' probabilities become one, see `combine`.

    Args:
        rule: `"mean"`, `"logit"`, `"vote"` or `"weights"`. Defaults to `"mean"`.
        weights: One a member, for `"weights"`. Defaults to `None`.
    """

    rule: str = "mean"
    weights: tuple[float, ...] | None = None
