"""Slots: the variables that an optimizer keeps for each weight, such as momenta.

Keras has no public way from a weight to its slots, so they are found by their names.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
from keras import ops

from keras_micronets._backend import distributed

__all__ = [
    "adopt_variables",
    "copy_slots",
    "reset_slots",
    "slots_of",
    "zero_slots",
]

_COUNTS = ("iteration", "learning_rate", "step_counter", "dynamic_scale")


def reset_slots(model: keras.Model) -> None:
    """Reset the optimizer's slots to their values before the first step.

    Step counts, learning rate and loss scale are kept. The averages of the weights
    that `use_ema` keeps are set to the present weights.
    """
    optimizer = model.optimizer
    if not optimizer.built:
        return
    # The optimizer was built before some layers were frozen, or afterwards.
    weights = [x for x in model.weights if keras.backend.is_float_dtype(x.dtype)]
    fresh = {
        (_name(slot), slot.shape): slot for slot in _fresh(model, weights).variables
    }
    # Through NumPy, since JAX would share a buffer: among slots of equal names, as two
    # members have, and with the weight that an average begins at.
    for slot in optimizer.variables:
        if _name(slot) not in _COUNTS:
            slot.assign(ops.convert_to_numpy(fresh[_name(slot), slot.shape]))
    trained = model.trainable_variables
    for weight, slots in zip(trained, slots_of(optimizer, trained), strict=True):
        for slot in slots:
            if slot.path.endswith("_average"):
                slot.assign(ops.convert_to_numpy(weight))


def adopt_variables(model: keras.Model) -> None:
    """Replace a model's optimizer with one that also trains its new variables.

    A built optimizer takes no more variables, so the new one is made from its
    configuration. Slots, step counts, learning rate and loss scale are copied by name.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or not optimizer.built:
        return
    fresh = _fresh(model, model.trainable_variables)
    values = defaultdict(list)
    for slot in optimizer.variables:
        values[_name(slot)].append(ops.convert_to_numpy(slot))
    for slot in fresh.variables:
        if values[_name(slot)]:
            slot.assign(values[_name(slot)].pop(0))
    model.optimizer = fresh


def _fresh(model, variables):
    """Return an optimizer of the same configuration, built at its first step."""
    optimizer = model.optimizer
    with distributed(model):
        fresh = type(optimizer).from_config(optimizer.get_config())
        fresh.build(variables)
    return fresh


def _name(slot):
    return slot.path.rpartition("/")[2]


def zero_slots(
    model: keras.Model, variables: Sequence[keras.Variable], where: Sequence[np.ndarray]
) -> None:
    """Set the optimizer's slots to zero at the positions that `where` marks."""
    if getattr(model, "optimizer", None) is None:
        return
    slots = _slots_by_id(model)
    for variable, chosen in zip(variables, where, strict=True):
        for slot in slots.get(id(variable), ()):
            slot.assign(np.where(chosen, 0, ops.convert_to_numpy(slot)))


def _slots_by_id(model):
    trained = model.trainable_variables
    return dict(zip(map(id, trained), slots_of(model.optimizer, trained), strict=True))


def slots_of(
    optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]
) -> list[list[keras.Variable]]:
    """Return an optimizer's slots of each variable: momenta, velocities, averages.

    Keras names a slot after its variable. Variables with equal paths, as in two nested
    models of one class, have their equally named slots in the order of the variables.

    Args:
        optimizer: A Keras optimizer, built or not.
        variables: All variables that it trains, in its order.
    """
    keys = [variable.path.replace("/", "_") for variable in variables]
    slots = [[] for _ in variables]
    seen = {}
    for slot in optimizer.variables:
        name = slot.path.rsplit("/", 1)[-1]
        owners = _owners(name, keys)
        if owners:
            owner = owners[seen.get(name, 0) % len(owners)]
            seen[name] = seen.get(name, 0) + 1
            if slot.shape == variables[owner].shape:
                slots[owner].append(slot)
    return slots


def _owners(name, keys):
    """Return the indices of the variables with the longest fitting name."""
    fits = [index for index, key in enumerate(keys) if name.startswith(f"{key}_")]
    longest = max((len(keys[index]) for index in fits), default=0)
    return [index for index in fits if len(keys[index]) == longest]


def copy_slots(
    source: keras.Model,
    target: keras.Model,
    counterparts: Mapping[int, keras.Variable],
    taken: Callable[[keras.Variable, keras.Variable], np.ndarray],
) -> None:
    """Copy the state of a model's optimizer to the optimizer of a model cut from it.

    Args:
        source: A compiled model. Without a built optimizer nothing changes.
        target: A model with an optimizer of the same class, whose variables are those
            of `source` or slices of them.
        counterparts: Dictionary from the `id` of a variable of `source` to the
            variable of `target`.
        taken: Function of a slot and the variable that it belongs to. It returns the
            slice that belongs to the target's variable.
    """
    old, new = source.optimizer, target.optimizer
    if old is None or not old.built:
        return
    new.build(target.trainable_variables)
    old_slots, new_slots = _slots_by_id(source), _slots_by_id(target)
    for variable in source.trainable_variables:
        slots = new_slots.get(id(counterparts.get(id(variable))), ())
        for slot, old_slot in zip(slots, old_slots[id(variable)], strict=bool(slots)):
            slot.assign(taken(old_slot, variable))
    counts = {_name(slot): slot for slot in old.variables if _name(slot) in _COUNTS}
    for slot in new.variables:
        if _name(slot) in counts:
            slot.assign(ops.convert_to_numpy(counts[_name(slot)]))
