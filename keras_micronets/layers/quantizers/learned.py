"""Step sizes that are trained with the weights (LSQ), with any optimizer.

The trained variable is the logarithm of the ratio to the first step size. So updates
are relative to the step size, and weight decay and averages of the weights leave it at
zero, where it begins.
"""

import functools
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_micronets._backend import cond, read
from keras_micronets._serialization import serializable
from keras_micronets.layers.quantizers.activation import (
    SMALLEST_RANGE,
    ActivationQuantizer,
)
from keras_micronets.layers.quantizers.kernel import (
    SMALLEST_KERNEL_RANGE,
    KernelQuantizer,
)
from keras_micronets.layers.state import Quantizer

__all__ = ["LearnedActivationQuantizer", "LearnedKernelQuantizer"]

_LARGEST_LOG = 2.0  # a step size stays within 7.4 times the first, at any learning rate


def round_to_steps(inputs: Any, step: Any, lowest: int, highest: int) -> Any:
    """Round to multiples of a step size, from `lowest` to `highest`.

    Gradients pass through to inputs in the range. That of the step size is equation 3
    of Esser et al. 2020.
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
    """Make outputs depend on variables under PyTorch, with gradients of zero.

    There, variables that a program does not read have no gradient, and Keras warns.
    """
    if keras.backend.backend() != "torch":
        return outputs
    for variable in variables:
        zero = ops.multiply(ops.sum(ops.convert_to_tensor(variable)), 0.0)
        outputs = ops.add(outputs, ops.cast(zero, outputs.dtype))
    return outputs


class _LearnedStep(Quantizer):
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


@serializable()
class LearnedActivationQuantizer(_LearnedStep, ActivationQuantizer):
    """Round a tensor to integers whose step size is trained with the weights.

    The first batch sets the range. Then gradients move the step size and, for a tensor
    with negative values, the offset. Zero stays one of the integers. Arguments are
    those of `ActivationQuantizer`, with the observer `LearnedStepSize`.

    References: Esser et al. 2020, "Learned Step Size Quantization"; Bhalgat et al.
    2020, "LSQ+: Improving low-bit quantization through learnable offsets".
    """

    @property
    def learns(self) -> bool:
        """Whether training reads the variables: also while they are frozen."""
        return True

    def build(self, input_shape: Any = None) -> None:
        super().build(input_shape)
        self.step = self._add_learned("step")
        self.offset = self._add_learned("offset")

    def reset(self) -> None:
        super().reset()
        for variable in (self.lower, self.upper, self.step, self.offset):
            variable.assign(0.0)

    def live_bounds(self) -> tuple[Any, Any]:
        step, lower = self._steps(self.own_bounds(), count=1)
        bounds = lower, lower + self._levels * step
        return tuple(ops.stop_gradient(bound) for bound in bounds)

    @property
    def _levels(self):
        return 2**self.bits - 1

    def _steps(self, initial, count):
        """Return the step and the lower bound, which is a multiple of it."""
        width = ops.subtract(initial[1], initial[0])
        whole = ops.maximum(width, SMALLEST_RANGE)
        factor = gradient_scale(whole / self._levels, count, self._levels)
        log = scale_gradient(self.step, factor)
        whole = ops.maximum(whole * ops.exp(log), SMALLEST_RANGE)
        step = ops.where(width > 0, whole / self._levels, 0.0)  # 0 without data
        return step, self._lower(initial, step, whole, count)

    def _lower(self, initial, step, whole, count):
        width = ops.subtract(initial[1], initial[0])
        factor = gradient_scale(ops.maximum(width, SMALLEST_RANGE), count, self._levels)
        shift = width * scale_gradient(self.offset, factor)
        wanted = initial[0] + ops.where(initial[0] < 0, shift, 0.0)
        zero = ops.round(-wanted * self._levels / whole)
        lower = -ops.clip(zero, 0, self._levels) * step
        return wanted + ops.stop_gradient(lower - wanted)

    def _learn(self, inputs, active, rectify):
        inputs = ops.relu(inputs) if rectify else inputs
        past = self.own_bounds()

        def on():
            initial = self._moved(self.observer.measure(inputs), past)
            return (self._round(inputs, initial), *initial)

        def off():
            return (add_dependence(inputs, self.step, self.offset), *past)

        outputs, lower, upper = cond(active, on, off)
        self.lower.assign(lower)
        self.upper.assign(upper)
        return outputs

    def _round(self, inputs, initial):
        values = ops.cast(inputs, "float32")
        step, lower = self._steps(initial, ops.size(values) / ops.shape(values)[0])
        # Without a finite first batch the step size is 0.
        step = ops.maximum(step, SMALLEST_RANGE / self._levels)
        rounded = round_to_steps(values - lower, step, 0, self._levels) + lower
        return ops.cast(rounded, inputs.dtype)


@serializable()
class LearnedKernelQuantizer(_LearnedStep, KernelQuantizer):
    """Round a kernel to integers whose step sizes are trained with the weights.

    `initialize_step` sets the first step sizes. Arguments are those of
    `KernelQuantizer`.

    Reference: Esser et al. 2020, "Learned Step Size Quantization".
    """

    def build(self, input_shape: Any = None) -> None:
        super().build(input_shape)
        shape = () if self.axis is None else (input_shape[self.axis],)
        self.initial = self.add_float("initial", shape)
        self.step = self._add_learned("step", shape)

    def reset(self) -> None:
        super().reset()
        self.initial.assign(ops.zeros_like(self.initial))
        self.step.assign(ops.zeros_like(self.step))

    def initialize_step(self, kernel: Any) -> None:
        """Set the first step sizes by a kernel, unless they are set already."""
        if not ops.convert_to_numpy(self.initial).any():
            self.initial.assign(ops.convert_to_numpy(self._first_limit(kernel)))

    def call(self, kernel: Any) -> Any:
        if self.constant is not None:
            return super().call(kernel)
        return cond(
            read(self.active),
            lambda: self._round(kernel),
            lambda: add_dependence(kernel, self.step),
        )

    def _first_limit(self, kernel):
        """Return the largest magnitude or, if less, the limit of Esser et al. 2020."""
        kernel = ops.cast(kernel, "float32")
        axes = [i for i in range(len(kernel.shape)) if i != self._axis_of(kernel)]
        mean = ops.mean(ops.abs(kernel), axis=axes)
        share = ops.mean(ops.cast(kernel != 0, "float32"), axis=axes)
        # Their first step size is 2 * mean / sqrt(largest), without masked weights.
        of_mean = 2 * math.sqrt(self.largest) * mean / ops.maximum(share, 1e-6)
        largest = super().limit(kernel)
        return ops.where(mean > 0, ops.minimum(of_mean, largest), largest)

    def _axis_of(self, kernel):
        return None if self.axis is None else self.axis % len(kernel.shape)

    def make_constant(self, *, keep: bool = True) -> None:
        super().make_constant(keep=keep)
        limits = ops.multiply(self.initial, ops.exp(self.step))
        self.constant_limits = np.array(ops.convert_to_numpy(limits))

    def limit(self, kernel: Any, factor: Any = 1.0) -> Any:
        if self.constant and self.constant_limits.all():  # the converter needs numbers
            return ops.convert_to_tensor(
                np.maximum(self.constant_limits, SMALLEST_KERNEL_RANGE)
            )
        log = scale_gradient(self.step, factor)
        initial = self._initial_limit(kernel)
        return ops.maximum(initial * ops.exp(log), SMALLEST_KERNEL_RANGE)

    def _initial_limit(self, kernel):
        initial = read(self.initial)
        return ops.where(initial > 0, initial, super().limit(kernel))

    def _round(self, kernel):
        values = ops.cast(kernel, "float32")
        initial = ops.stop_gradient(self._initial_limit(values))
        count = math.prod(kernel.shape) / math.prod(self.step.shape)
        factor = gradient_scale(initial / self.largest, count, self.largest)
        limit = self.limit(values, factor)
        step = limit / self.largest
        if self.axis is not None:
            shape = [1] * len(kernel.shape)
            shape[self.axis] = -1
            step = ops.reshape(step, shape)
        rounded = round_to_steps(values, step, -self.largest, self.largest)
        rounded = self._as_in_file(rounded, ops.stop_gradient(limit))
        return ops.cast(rounded, kernel.dtype)
