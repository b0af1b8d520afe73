from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """Say what was left out of an input, while the reading goes on.

    The readers yield it among the samples, in the place of what is missing.

    Args:
        message: What was expected and what came.
        is_error: Whether something was wrong, or it is just to be known.
            Defaults to `True`.
    """

    message: str
    is_error: bool = True
