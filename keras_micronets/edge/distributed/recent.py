"""What was said lately."""

from collections import OrderedDict


class Recent:
    """Remember the newest values, within a number and a size.

    Args:
        count: The most values kept. Defaults to `1024`.
        size: The most bytes kept, as `put` is told. Defaults to 16 MiB.

    Example:

    ```python
    recent = Recent(count=1)
    recent.put("a", 1)
    recent.put("b", 2)
    recent.get("a")  # None
    ```
    """

    def __init__(self, *, count: int = 1024, size: int = 2**24):
        self._count, self._size, self._held = count, size, 0
        self._values = OrderedDict()

    def __len__(self):
        return len(self._values)

    def get(self, key):
        """Return a value, or `None` where it is forgotten."""
        return self._values.get(key, (None, 0))[0]

    def put(self, key, value, size: int = 0) -> None:
        """Remember a value of so many bytes; the oldest ones are forgotten."""
        self._held += size - self._values.pop(key, (None, 0))[1]
        self._values[key] = (value, size)
        while len(self._values) > self._count or self._held > self._size:
            self._held -= self._values.popitem(last=False)[1][1]
