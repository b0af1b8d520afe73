"""What fits into memory."""

import math
from collections.abc import Sequence

from .member import Member

#: Bytes of arrays for each value of an input: ready for the members, and those of them
#: that an early exit still asks about; and for each thread, on its way to integers.
VALUE_BYTES, THREAD_BYTES = 9, 5


def samples_within(memory_limit: int, members: Sequence[Member], n_threads: int) -> int:
    """Return how many samples can be on their way at a time, besides the models.

    Args:
        memory_limit: Bytes for models and arrays.
        members: The models, of one input and one output shape.
        n_threads: How many of them run at a time.

    Raises:
        ValueError: If there is no room for the models and one sample.
    """
    models = sum(member.memory for member in members)
    values = math.prod(members[0].input_shape)
    answers = math.prod(members[0].output_shape)
    sample = values * (VALUE_BYTES + n_threads * THREAD_BYTES)
    sample += 4 * answers * (4 + 3 * len(members))
    if memory_limit < models + sample:
        raise ValueError(
            f"Expected a memory limit with room for {len(members)} models, {models:,} "
            f"bytes, and for one sample on its way through them, {sample:,} bytes; run "
            f"fewer members here, or smaller ones. Received: {memory_limit:,} bytes."
        )
    return (memory_limit - models) // sample
