import keras

_KEPT = ("iteration", "learning_rate", "step_counter", "dynamic_scale")


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
    fresh = type(optimizer).from_config(optimizer.get_config())
    fresh.build(model.trainable_variables)
    for slot, initial in zip(optimizer.variables, fresh.variables, strict=True):
        if slot.path.rpartition("/")[2] not in _KEPT:
            slot.assign(initial)
    averages = [slot for slot in optimizer.variables if slot.path.endswith("_average")]
    for average, weight in zip(averages, model.trainable_variables, strict=False):
        average.assign(weight)
