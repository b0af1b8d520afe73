"""Go through predictions that are too many to be copied at once."""

from collections.abc import Iterator

import numpy as np

BLOCK_BYTES = 2**26


def in_blocks(p: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Go through learners a block at a time.

    Args:
        p: Floating-point array of shape `(learners, samples, classes)`; may be
            memory-mapped.

    Yields:
        A slice of the learners, and their probabilities in single or double precision.
    """
    length = max(1, BLOCK_BYTES // max(1, p[0].size * 8))
    for start in range(0, len(p), length):
        part = slice(start, start + length)
        yield part, as_numbers(p[part])


def as_numbers(p: np.ndarray) -> np.ndarray:
    """Bring half precision, which is good for storing alone, to single precision."""
    return p.astype(np.promote_types(p.dtype, np.float32), copy=False)
