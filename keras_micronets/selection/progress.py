"""A line that says how far a long calculation has come."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

_Item = TypeVar("_Item")


def progress(
    iterable: Iterable[_Item], total: int, label: str, verbose: int
) -> Iterable[_Item]:
    """Go through items and say on standard error what share of them is done.

    Args:
        iterable: What to go through.
        total: Integer. How many items there are.
        label: String. What is being done.
        verbose: `0`, silent, or `1`.

    Returns:
        An iterable of the same items.

    Example:

    ```python
    for pair in progress(pairs, len(pairs), "disagreement", verbose=1):
        ...  # disagreement: 42%
    ```
    """
    return _reported(iterable, total, label) if verbose else iterable


def _reported(iterable: Iterable[_Item], total: int, label: str) -> Iterator[_Item]:
    shown = None
    try:
        for done, item in enumerate(iterable):
            percent = 100 * done // total
            if percent != shown:
                _write(f"\r{label}: {percent}%")
                shown = percent
            yield item
        _write(f"\r{label}: 100%")
    finally:
        _write("\n")


def _write(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
