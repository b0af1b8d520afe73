"""Steps that are trained with the weights (LSQ), in a form for any optimizer.

A step is learned as the logarithm of its ratio to the initial one. So its updates are
relative, whatever the step's size; at zero, where it begins, weight decay and averages
of the weights leave it alone.
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
    """Mixin of quantisers with trained variables, which `frozen` keeps as they are.

    An optimizer moves variables even without gradients. While `frozen` is set, their
    constraint returns what they were; the step must be compiled anew for it.
    """

    _is_frozen = False

    @property
    def frozen(self):
        return self._is_frozen

    @frozen.setter
    def frozen(self, value):
        self._is_frozen = value
        if self.built:
            pins = {v.name: ops.convert_to_numpy(v) for v in self.trainable_variables}
            self.frozen_values = pins

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
        if self.frozen:
            return ops.convert_to_tensor(self.frozen_values[name])
        return ops.clip(value, -_FURTHEST, _FURTHEST)


@serializable()
class LearnedActivationQuantizer(LearnsSteps, ActivationQuantizer):
    """Round a tensor to integers whose step is trained with the weights.

    The first batch sets the range; then gradients move the step and, for a tensor
    with negative values, the offset. Zero stays one of the integers.

    Args:
        observer: A `keras_micronets.observers.LearnedStepSize`.
        bits: Integer from 2 to 8. Defaults to `8`.

    Call arguments:
        inputs: Float tensor of any shape.
        training: Boolean, whether the first batch may set the range.
        rectify: Boolean, whether to round `relu(inputs)` instead. Defaults to
            `False`.

    Reference: Esser et al. 2020, "Learned Step Size Quantization"; Bhalgat et al.
    2020, "LSQ+: Improving low-bit quantization through learnable offsets".
    """

    learns = True  # while held, too: gradients must reach the variables

    def build(self, input_shape=None):
        super().build(input_shape)
        self.step = self.add_learned("step")
        self.offset = self.add_learned("offset")

    def reset(self):
        super().reset()
        for variable in (self.lower, self.upper, self.step, self.offset):
            variable.assign(0.0)

    def live_bounds(self):
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
        step = ops.where(width > 0, whole / self._levels, 0.0)  # none yet
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
            return (tie(inputs, self.step, self.offset), *past)

        outputs, lower, upper = cond(active, on, off)
        self.lower.assign(lower)
        self.upper.assign(upper)
        return outputs

    def _round(self, inputs, initial):
        values = ops.cast(inputs, "float32")
        step, lower = self._steps(initial, ops.size(values) / ops.shape(values)[0])
        # Without a sound first batch there is no step to divide by.
        step = ops.maximum(step, SMALLEST_RANGE / self._levels)
        rounded = round_to_steps(values - lower, step, 0, self._levels) + lower
        return ops.cast(rounded, inputs.dtype)


@serializable()
class LearnedKernelQuantizer(LearnsSteps, KernelQuantizer):
    """Round a kernel to integers whose step is trained with the weights.

    Symmetric, so that zeros stay zero. `initialize_step` sets the first step. Does nothing
    until `active` is set.

    Args:
        axis: Integer, the axis with a step for each index, or `None` for one step a
            tensor. Defaults to `None`.
        bits: Integer from 2 to 8. Defaults to `8`.

    Call arguments:
        kernel: Float tensor.

    Reference: Esser et al. 2020, "Learned Step Size Quantization".
    """

    def build(self, input_shape):
        super().build(input_shape)
        shape = () if self.axis is None else (input_shape[self.axis],)
        self.initial = self.add_weight(
            name="initial",
            shape=shape,
            dtype="float32",
            initializer="zeros",
            trainable=False,
            autocast=False,
        )
        self.step = self.add_learned("step", shape)

    def reset(self):
        super().reset()
        self.initial.assign(ops.zeros_like(self.initial))
        self.step.assign(ops.zeros_like(self.step))

    def initialize_step(self, kernel: Any) -> None:
        """Set the first range by a kernel, unless that was done before."""
        if not ops.convert_to_numpy(self.initial).any():
            self.initial.assign(ops.convert_to_numpy(self._first_limit(kernel)))

    def call(self, kernel):
        if self.constant is not None:
            return super().call(kernel)
        return cond(
            read(self.active),
            lambda: self._round(kernel),
            lambda: tie(kernel, self.step),
        )

    def _first_limit(self, kernel):
        """The largest magnitude, or, for few bits, less: that of Esser et al."""
        kernel = ops.cast(kernel, "float32")
        axes = [i for i in range(len(kernel.shape)) if i != self._axis_of(kernel)]
        mean = ops.mean(ops.abs(kernel), axis=axes)
        share = ops.mean(ops.cast(kernel != 0, "float32"), axis=axes)
        of_mean = 2 * math.sqrt(self.largest) * mean / ops.maximum(share, 1e-6)
        largest = super().limit(kernel)
        return ops.where(mean > 0, ops.minimum(of_mean, largest), largest)

    def _axis_of(self, kernel):
        return None if self.axis is None else self.axis % len(kernel.shape)

    def make_constant(self, *, keep=True):
        super().make_constant(keep=keep)
        limits = ops.multiply(self.initial, ops.exp(self.step))
        self.constant_limits = np.array(ops.convert_to_numpy(limits))

    def limit(self, kernel, factor=1.0):
        if self.constant and self.constant_limits.all():  # the converter wants numbers
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
