"""Add the members of a model that is trained side by side to a pool."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras

from keras_micronets import layers
from keras_micronets.layers.side_by_side import member_logs

if TYPE_CHECKING:
    from keras_micronets.learners.learner import Learner
    from keras_micronets.learners.pool import LearnerPool

__all__ = ["add_members"]


def add_members(
    pool: "LearnerPool",
    model: keras.Model,
    *,
    name: str,
    logs: dict[str, Any] | None,
    seed: int | None,
    compact: Callable[[keras.Model], keras.Model] | None = None,
    **metadata: Any,
) -> list["Learner"]:
    """Add a model, or each member of a `SideBySide` model, unless the pool has it.

    Args:
        pool: The pool.
        model: The model.
        name: Name of the learner; for members, what it begins with.
        logs: Logs of the epoch.
        seed: Integer, the seed of the run; members have their own.
        compact: Function that returns the model to save. Defaults to `None`.
        **metadata: Further arguments of `LearnerPool.add`.

    Returns:
        The learners that were added.
    """
    added, seeds = [], getattr(model, "seeds", None)
    for index, member in enumerate(layers.members_of(model)):
        full, own = name, logs or {}
        if member is not model:
            full = f"{name}-member-{index + 1}"
            own = member_logs(own, index)
        if full not in pool:
            learner = pool.add(
                compact(member) if compact else member,
                name=full,
                seed=seeds[index] if seeds else seed,
                metrics=dict(own),
                **metadata,
            )
            added.append(learner)
    return added
