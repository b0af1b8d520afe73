import math

import keras
import numpy as np
from keras import ops

from keras_micronets.layers.kernel_quantizer import (
    SMALLEST_RANGE,
    KernelQuantizer,
    times,
)
from keras_micronets.layers.learned_step import (
    LearnsSteps,
    gradient_scale,
    round_to_steps,
    scale_gradient,
    tie,
)
from keras_micronets.layers.state import choose, read


@keras.saving.register_keras_serializable(package="keras_micronets")
class LearnedKernelQuantizer(LearnsSteps, KernelQuantizer):
    """Round a kernel to integers whose step is trained with the weights.

    Symmetric, so that zeros stay zero. `begin` sets the first step. Does nothing
    until `active` is set.

    Args:
        axis: Integer, the axis with a step for each index, or `None` for one step a
            tensor. Defaults to `None`.
        bits: Integer from 2 to 8. Defaults to `8`.

    Call arguments:
        kernel: Float tensor.
        share: As a `KernelQuantizer` takes it.

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

    def begin(self, kernel) -> None:
        """Set the first range by a kernel, unless that was done before."""
        if not ops.convert_to_numpy(self.initial).any():
            self.initial.assign(ops.convert_to_numpy(self._first_limit(kernel)))

    def call(self, kernel, share=None):
        if self.frozen is not None:
            return super().call(kernel, share)
        return choose(
            read(self.active),
            lambda: self._round(kernel, share),
            lambda: tie(times(kernel, share), self.step),
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

    def freeze(self, *, keep=True):
        super().freeze(keep=keep)
        limits = ops.multiply(self.initial, ops.exp(self.step))
        self.frozen_limits = np.array(ops.convert_to_numpy(limits))

    def limit(self, kernel, factor=1.0):
        if self.frozen and self.frozen_limits.all():  # the converter wants numbers
            return ops.convert_to_tensor(np.maximum(self.frozen_limits, SMALLEST_RANGE))
        log = scale_gradient(self.step, factor)
        initial = self._initial_limit(kernel)
        return ops.maximum(initial * ops.exp(log), SMALLEST_RANGE)

    def _initial_limit(self, kernel):
        initial = read(self.initial)
        return ops.where(initial > 0, initial, super().limit(kernel))

    def _round(self, kernel, share):
        values = ops.cast(kernel, "float32")
        initial = ops.stop_gradient(self._initial_limit(values))
        count = math.prod(kernel.shape) / math.prod(self.step.shape)
        factor = gradient_scale(initial / self.largest, count, self.largest)
        step = self.limit(values, factor) / self.largest
        if self.axis is not None:
            shape = [1] * len(kernel.shape)
            shape[self.axis] = -1
            step = ops.reshape(step, shape)
        values = times(values, share)
        rounded = round_to_steps(values, step, -self.largest, self.largest)
        return ops.cast(rounded, kernel.dtype)
