"""Steps that are trained with the weights (LSQ), in a form for any optimizer.

A step is learned as the logarithm of its ratio to the initial one. So its updates are
relative, whatever the step's size; at zero, where it begins, weight decay and averages
of the weights leave it alone.
"""

import functools

import keras
from keras import ops

_FURTHEST = 2.0  # a step ends within 7.4 times the first, whatever the learning rate


def round_to_steps(inputs, step, lowest: int, highest: int):
    """Round to the multiples of a step, with gradients for both.

    Args:
        inputs: Float tensor.
        step: Positive tensor that broadcasts with it.
        lowest: Integer, the smallest multiple.
        highest: Integer, the largest one.

    Returns:
        Tensor of the shape of `inputs`. Its gradient passes through to the inputs
        within the range; the step's is that of Esser et al. 2020.
    """
    scaled = ops.clip(ops.divide(inputs, step), lowest, highest)
    rounded = ops.add(
        scaled, ops.stop_gradient(ops.subtract(ops.round(scaled), scaled))
    )
    return ops.multiply(rounded, step)


def scale_gradient(variable, factor):
    """Return a variable's value; the gradient it gets is multiplied by a factor."""
    value = ops.stop_gradient(variable)
    change = ops.subtract(ops.convert_to_tensor(variable), value)  # zero
    return ops.add(
        value, ops.multiply(change, ops.stop_gradient(ops.convert_to_tensor(factor)))
    )


def gradient_scale(unit, count, highest: int):
    """Return the factor of a gradient with which the unit trains about as weights do.

    For a step as such, Esser et al. take 1 / sqrt(count * highest); its logarithm's
    pace would be the same with that divided by the step's square. It is divided by
    `highest` too: with 8 bits the few values that are clipped otherwise threw steps
    away (measured with momentum: a factor of 300 within 30 batches).

    Args:
        unit: Tensor, what the learned logarithm or share is multiplied with.
        count: Number of the values that share the step.
        highest: Integer, the largest multiple of the step.
    """
    count = ops.cast(count, "float32")
    return 1.0 / (ops.square(unit) * highest * ops.sqrt(count * float(highest)))


def tie(outputs, *variables):
    """Make outputs depend on variables that they were not computed with, on PyTorch.

    There what a program does not read has no gradient, and Keras warns of it.
    """
    if keras.backend.backend() != "torch":
        return outputs
    for variable in variables:
        zero = ops.multiply(ops.sum(ops.convert_to_tensor(variable)), 0.0)
        outputs = ops.add(outputs, ops.cast(zero, outputs.dtype))
    return outputs


class LearnsSteps:
    """Mixin of quantisers with trained variables, which `held` keeps as they are.

    An optimizer moves variables even without gradients. While `held` is set, their
    constraint returns what they were; the step must be compiled anew for it.
    """

    _is_held = False

    @property
    def held(self):
        return self._is_held

    @held.setter
    def held(self, value):
        self._is_held = value
        if self.built:
            pins = {v.name: ops.convert_to_numpy(v) for v in self.trainable_variables}
            self.pins = pins

    def add_learned(self, name, shape=()):
        """Add a trained variable that begins at zero and stays within [-2, 2]."""
        return self.add_weight(
            name=name,
            shape=shape,
            dtype="float32",
            initializer="zeros",
            autocast=False,
            constraint=functools.partial(self._constrain, name),
        )

    def _constrain(self, name, value):
        if self.held:
            return ops.convert_to_tensor(self.pins[name])
        return ops.clip(value, -_FURTHEST, _FURTHEST)
