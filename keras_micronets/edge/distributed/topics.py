"""Where messages go."""

import re
from dataclasses import dataclass

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_name(name: str, what: str = "a name") -> str:
    """Return a name that may stand in a topic, and so in access rules.

    Raises:
        ValueError: If it has other characters than these.
    """
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        raise ValueError(
            f"Expected {what} of at most 64 letters, digits, '.', '_' and '-', the "
            f"first a letter or digit. Received: {name!r}."
        )
    return name


@dataclass(frozen=True)
class Topics:
    """Name the topics.

    Args:
        prefix: What they all begin with, one or more names joined by `/`.
            Defaults to `"micronets"`.

    Raises:
        ValueError: If the prefix is none.

    Example:

    ```python
    Topics().requests("node-1")  # "micronets/nodes/node-1/requests"
    ```
    """

    prefix: str = "micronets"

    def __post_init__(self):
        for name in self.prefix.split("/"):
            check_name(name, "a prefix of names joined by '/', each")

    def node(self, node: str) -> str:
        """Return where a node describes itself; `"+"` stands for all nodes."""
        return f"{self.prefix}/nodes/{node}"

    def requests(self, node: str) -> str:
        """Return where a node is sent requests."""
        return f"{self.prefix}/nodes/{node}/requests"

    def answers(self, gateway: str, node: str) -> str:
        """Return where a node answers a gateway; `"+"` stands for all nodes."""
        return f"{self.prefix}/gateways/{gateway}/answers/{node}"
