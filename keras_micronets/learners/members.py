"""Add the members of a model that is trained side by side to a pool."""

import itertools
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras

from keras_micronets import layers
from keras_micronets.layers.side_by_side import member_logs
from keras_micronets.learners.outputs import (
    architecture_hash,
    infer_task,
    single_output,
)

if TYPE_CHECKING:
    from keras_micronets.learners.learner import Learner
    from keras_micronets.learners.pool import LearnerPool

__all__ = ["add_members", "check_members", "name_in_run"]


def add_members(
    pool: "LearnerPool",
    model: keras.Model,
    *,
    name: str,
    run: str,
    logs: dict[str, Any] | None,
    seed: int | None,
    compact: Callable[[keras.Model], keras.Model] | None = None,
    **metadata: Any,
) -> list["Learner"]:
    """Add a model, or each member of a `SideBySide` model, unless the run has it.

    Args:
        pool: The pool.
        model: The model.
        name: Name of the learner; for members, what it begins with. If a learner of
            another run has it, a number is added.
        run: Name of the run.
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
        full = name_in_run(pool, full, run)
        if full not in pool:
            learner = pool.add(
                compact(member) if compact else member,
                name=full,
                run=run,
                seed=seeds[index] if seeds else seed,
                metrics=dict(own),
                **metadata,
            )
            added.append(learner)
    return added


def check_members(
    pool: "LearnerPool",
    model: keras.Model,
    *,
    compact: Callable[[keras.Model], keras.Model] | None = None,
    task: str | None = None,
    output: str | int | None = None,
) -> None:
    """Try whether a model, or the members of one, can be added to a pool and loaded.

    Copies with active quantisers are added to a temporary pool in the same folder.
    Nothing is tried before the model is built.

    Args:
        pool, model: The pool and the model.
        compact: As for `add_members`.
        task, output: As for `LearnerPool.add`.

    Raises:
        ValueError: If a member cannot be saved, loaded or added, or its output does
            not suit its task.
        OSError: If the folder cannot be written.
    """
    if not model.built:
        return
    state = random.getstate()  # from which Keras draws the seeds of new layers
    tried = set()
    with pool.trial() as trial:
        for member in layers.members_of(model):
            architecture = architecture_hash(member)
            if architecture not in tried:
                _try(trial, member, compact, task, output)
            tried.add(architecture)
    random.setstate(state)


def _try(trial, member, compact, task, output):
    learner = None
    try:
        if task is None:  # the copy has no loss that tells
            task = infer_task(single_output(member, output))
        copy = layers.clone(member)
        layers.set_quantizers(copy, True)  # as callbacks may do later
        copy = compact(copy) if compact else copy
        learner = trial.add(copy, task=task, output=output)
        learner.load()
    except (NotImplementedError, TypeError, ValueError) as error:
        if learner is None and isinstance(error, ValueError):
            raise  # it says what was expected
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            "Expected a model that Keras can save and load, to add it to a pool. "
            f"Received: {member.name!r}, with {type(error).__name__}: {reason} "
            "Register custom classes and functions with "
            "`keras.saving.register_keras_serializable`, and give classes a "
            "`get_config`."
        ) from error


def name_in_run(pool: "LearnerPool", name: str, run: str) -> str:
    """Return a name that is free or has a learner of this run."""
    names = itertools.chain([name], (f"{name}-{n}" for n in itertools.count(2)))
    return next(x for x in names if x not in pool or pool[x].run == run)
