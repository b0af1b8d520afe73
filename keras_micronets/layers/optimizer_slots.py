"""The slots that an optimizer keeps for each weight, found by their paths."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
from keras import ops

_COUNTS = ("iteration", "learning_rate", "step_counter", "dynamic_scale")


def reset_slots(model: keras.Model) -> None:
    """Give the optimizer's slots the values they have before the first step.

    Step counts, learning rate and loss scale stay. Averages of the weights, which
    `use_ema` keeps, become the present weights.

    Args:
        model: A compiled model.
    """
    optimizer = model.optimizer
    if not optimizer.built:
        return
    fresh = _fresh(model)
    for slot, initial in zip(optimizer.variables, fresh.variables, strict=True):
        if _name(slot) not in _COUNTS:
            slot.assign(initial)
    averages = [slot for slot in optimizer.variables if slot.path.endswith("_average")]
    for average, weight in zip(averages, model.trainable_variables, strict=False):
        average.assign(ops.convert_to_numpy(weight))  # JAX would share the buffer


def adopt_variables(model: keras.Model) -> None:
    """Give a model an optimizer that trains its new variables too.

    It is a new one of the same configuration, for a built optimizer takes no more
    variables. Slots, step counts, learning rate and loss scale are copied by name.

    Args:
        model: A model whose trainable variables have become more; without a built
            optimizer nothing happens.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or not optimizer.built:
        return
    fresh = _fresh(model)
    values = defaultdict(list)
    for slot in optimizer.variables:
        values[_name(slot)].append(ops.convert_to_numpy(slot))
    for slot in fresh.variables:
        if values[_name(slot)]:
            slot.assign(values[_name(slot)].pop(0))
    model.optimizer = fresh


def _fresh(model):
    """A built optimizer of the same configuration, at its first step."""
    optimizer = model.optimizer
    fresh = type(optimizer).from_config(optimizer.get_config())
    fresh.build(model.trainable_variables)
    return fresh


def _name(slot):
    return slot.path.rpartition("/")[2]


def zero_slots(
    model: keras.Model, variables: Sequence[keras.Variable], where: Sequence[np.ndarray]
) -> None:
    """Set the optimizer's slots of some weights to zero, and leave the others.

    Args:
        model: A Keras model; without a built optimizer nothing happens.
        variables: Variables of the model.
        where: Boolean arrays of their shapes, `True` where slots become zero.
    """
    if getattr(model, "optimizer", None) is None:
        return
    trained = model.trainable_variables
    found = slots_of(model.optimizer, trained)
    slots = {id(variable): own for variable, own in zip(trained, found, strict=True)}
    for variable, chosen in zip(variables, where, strict=True):
        for slot in slots.get(id(variable), ()):
            slot.assign(np.where(chosen, 0, ops.convert_to_numpy(slot)))


def slots_of(
    optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]
) -> list[list[keras.Variable]]:
    """Return an optimizer's slots of each variable: momenta, velocities, averages.

    Keras names a slot after its variable. Of variables with one path, as in two
    nested models of one kind, the first has the first slot of a name.

    Args:
        optimizer: A Keras optimizer, built or not.
        variables: All variables that it trains, in its order.

    Returns:
        A list of lists, one a variable, of the slots that have its shape.
    """
    keys = [variable.path.replace("/", "_") for variable in variables]
    found = [[] for _ in variables]
    seen = {}
    for slot in optimizer.variables:
        name = slot.path.rsplit("/", 1)[-1]
        owners = _owners(name, keys)
        if owners:
            owner = owners[seen.get(name, 0) % len(owners)]
            seen[name] = seen.get(name, 0) + 1
            if slot.shape == variables[owner].shape:
                found[owner].append(slot)
    return found


def _owners(name, keys):
    """The positions of the variables with the longest name that a slot may bear."""
    fits = [index for index, key in enumerate(keys) if name.startswith(f"{key}_")]
    longest = max((len(keys[index]) for index in fits), default=0)
    return [index for index in fits if len(keys[index]) == longest]


def copy_slots(
    source: keras.Model,
    target: keras.Model,
    counterparts: Mapping[int, keras.Variable],
    taken: Callable[[keras.Variable, keras.Variable], np.ndarray],
) -> None:
    """Let a model's optimizer go on where that of another model is.

    Args:
        source: A compiled model; without a built optimizer nothing happens.
        target: A model compiled alike, whose variables are those of `source`, or
            parts of them.
        counterparts: Dictionary from the `id` of a variable of `source` to that of
            `target`.
        taken: Function of a slot and the variable that it belongs to; it returns the
            part that the target's variable has.
    """
    old, new = source.optimizer, target.optimizer
    if old is None or not old.built:
        return
    new.build(target.trainable_variables)
    trained = source.trainable_variables
    ours = dict(zip(map(id, trained), slots_of(old, trained), strict=True))
    theirs = target.trainable_variables
    theirs = dict(zip(map(id, theirs), slots_of(new, theirs), strict=True))
    for variable in trained:
        slots = theirs.get(id(counterparts.get(id(variable))), ())
        for slot, own in zip(slots, ours[id(variable)], strict=bool(slots)):
            slot.assign(taken(own, variable))
    counts = {_name(slot): slot for slot in old.variables if _name(slot) in _COUNTS}
    for slot in new.variables:
        if _name(slot) in counts:
            slot.assign(ops.convert_to_numpy(counts[_name(slot)]))
