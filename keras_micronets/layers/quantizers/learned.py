"""Step sizes that are trained with the weights (LSQ), with any optimizer.

The trained variable is the logarithm of the ratio to the first step size. So updates
are relative to the step size, and weight decay and averages of the weights leave it at
zero, where it begins.
"""

import functools
from typing import Any

import keras
from keras import ops

from keras_micronets.layers.state import Quantizer

__all__ = [
    "LearnedStep",
    "add_dependence",
    "gradient_scale",
    "round_to_steps",
    "scale_gradient",
]

_LARGEST_LOG = 2.0  # a step size stays within 7.4 times the first, at any learning rate


def round_to_steps(inputs: Any, step: Any, lowest: int, highest: int) -> Any:
    """Round to multiples of a step size, from `lowest` to `highest`.

    Gradients pass through to inputs in the range. The gradient of the step size follows
    equation 3 of Esser et al. 2020.
    """
    scaled = ops.clip(ops.divide(inputs, step), lowest, highest)
    rounded = ops.add(
        scaled, ops.stop_gradient(ops.subtract(ops.round(scaled), scaled))
    )
    return ops.multiply(rounded, step)


def scale_gradient(variable: Any, factor: Any) -> Any:
    """Return a variable's value, whose gradient is multiplied by a factor."""
    value = ops.stop_gradient(variable)
    change = ops.subtract(ops.convert_to_tensor(variable), value)  # zero
    return ops.add(
        value, ops.multiply(change, ops.stop_gradient(ops.convert_to_tensor(factor)))
    )


def gradient_scale(unit: Any, count: Any, highest: int) -> Any:
    """Return the factor of a gradient that makes a variable train as fast as weights.

    For a step size, Esser et al. 2020 (section 2.2) use 1 / sqrt(count * highest). For
    its logarithm that is divided by the square of the step size. It is divided by
    `highest` too: with 8 bits, the few clipped values otherwise made step sizes diverge
    (measured with momentum: by a factor of 300 within 30 batches).

    Args:
        unit: Tensor that the trained variable is multiplied with.
        count: Number of values that share the step size.
        highest: Integer, the largest multiple of the step size.
    """
    count = ops.cast(count, "float32")
    return 1.0 / (ops.square(unit) * highest * ops.sqrt(count * float(highest)))


def add_dependence(outputs: Any, *variables: Any) -> Any:
    """Let outputs depend on variables, with zero gradients.

    Under PyTorch, variables that a program does not read have no gradient, and Keras
    warns. On other backends the outputs are returned unchanged.
    """
    if keras.backend.backend() != "torch":
        return outputs
    for variable in variables:
        zero = ops.multiply(ops.sum(ops.convert_to_tensor(variable)), 0.0)
        outputs = ops.add(outputs, ops.cast(zero, outputs.dtype))
    return outputs


class LearnedStep(Quantizer):
    """Base class of quantisers with trained variables.

    Optimizers move variables even without gradients. While `frozen` is set, the
    variables' constraints therefore return their values of that moment.
    """

    _is_frozen = False

    @property
    def frozen(self) -> bool:
        """Whether training leaves the step sizes unchanged."""
        return self._is_frozen

    @frozen.setter
    def frozen(self, value: bool) -> None:
        self._is_frozen = value
        if self.built:
            variables = self.trainable_variables
            self._frozen = {v.name: ops.convert_to_numpy(v) for v in variables}

    def _add_learned(self, name, shape=()):
        """Add a trained variable that begins at zero and stays within [-2, 2]."""
        constraint = functools.partial(self._constrain, name)
        return self.add_float(name, shape, trainable=True, constraint=constraint)

    def _constrain(self, name, value):
        if self.frozen:
            return ops.convert_to_tensor(self._frozen[name])
        return ops.clip(value, -_LARGEST_LOG, _LARGEST_LOG)
