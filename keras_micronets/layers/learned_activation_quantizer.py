import keras
from keras import ops

from keras_micronets.layers.activation_quantizer import (
    SMALLEST_RANGE,
    ActivationQuantizer,
)
from keras_micronets.layers.learned_step import (
    LearnsSteps,
    gradient_scale,
    round_to_steps,
    scale_gradient,
    tie,
)
from keras_micronets.layers.state import choose


@keras.saving.register_keras_serializable(package="keras_micronets")
class LearnedActivationQuantizer(LearnsSteps, ActivationQuantizer):
    """Round a tensor to integers whose step is trained with the weights.

    The first batch sets the range; then gradients move the step and, for a tensor
    with negative values, the offset. Zero stays one of the integers.

    Args:
        ranges: A `keras_micronets.ranges.LearnedStep`.
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
            initial = self._moved(self.ranges.measure(inputs), past)
            return (self._round(inputs, initial), *initial)

        def off():
            return (tie(inputs, self.step, self.offset), *past)

        outputs, lower, upper = choose(active, on, off)
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
