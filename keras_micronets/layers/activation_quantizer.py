import keras
from keras import ops

from keras_micronets.layers.fake_quant import quantize_activation
from keras_micronets.layers.source import mark, sums_of, wide
from keras_micronets.layers.state import Quantizer, choose, read

SMALLEST_RANGE = 1e-4
HALF_AWAY = 1e-3  # steps; averages of up to 500 integers are told from a half


@keras.saving.register_keras_serializable(package="keras_micronets")
class ActivationQuantizer(Quantizer):
    """Round a tensor to the 8-bit integers that the device will compute with.

    While training, the range follows a moving average of the batches' minimum
    and maximum; the first batch sets it. Zero is always representable. Gradients
    pass straight through inside the range and stop outside (Jacob et al. 2018).
    Does nothing, and observes nothing, until `active` is set.

    Args:
        fixed_range: Tuple `(lower, upper)` where the device leaves no choice, as
            for the output of a softmax; `None` to learn the range. Defaults to
            `None`.
        momentum: Float in [0, 1), the weight of the past in the moving average.
            Defaults to `0.99`.
        bits: Integer from 2 to 8. Defaults to `8`.

    Call arguments:
        inputs: Float tensor of any shape.
        training: Boolean, whether to move the range.
        rectify: Boolean, whether to round `relu(inputs)` instead, which costs less
            than one after the other. Defaults to `False`.
    """

    def __init__(
        self,
        *,
        fixed_range: tuple[float, float] | None = None,
        momentum: float = 0.99,
        bits: int = 8,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.fixed_range = fixed_range and tuple(fixed_range)
        self.momentum = momentum
        self.bits = bits

    def build(self, input_shape=None):
        super().build(input_shape)
        lower, upper = self.fixed_range or (0.0, 0.0)
        self.lower = self._bound("lower", lower)
        self.upper = self._bound("upper", upper)

    def _bound(self, name, value):
        return self.add_weight(
            name=name,
            shape=(),
            dtype="float32",
            initializer=keras.initializers.Constant(value),
            trainable=False,
            autocast=False,
        )

    def call(self, inputs, training=False, rectify=False):
        return mark(self._rounded(inputs, training, rectify), self)

    def _rounded(self, inputs, training, rectify):
        rectified = ops.relu if rectify else _same
        if self.frozen is not None:
            outputs = rectified(inputs)
            return self._quantize(outputs, *self.bounds()) if self.frozen else outputs
        active = read(self.active)
        if training and self.fixed_range is None:
            return self._learn(inputs, active, rectify)
        return choose(
            active,
            lambda: self._on_device(inputs, rectify),
            lambda: rectified(inputs),
        )

    def bounds(self):
        """Return `(lower, upper)`, the range: tensors, or numbers once frozen."""
        if self.frozen is not None:
            return self.frozen_bounds
        return read(self.lower), read(self.upper)

    def step(self):
        """Return the real value of one integer."""
        lower, upper = _apart(*self.bounds())
        span = ops.subtract(wide(upper), wide(lower))
        return ops.cast(ops.divide(span, 2**self.bits - 1), "float32")

    def average(self, inputs):
        """Round averages of this quantiser's tensors, which keep its integers.

        A device rounds halves away from its integer 0, which is the middle of the
        range; an average of few integers often ends in a half.
        """
        if self.frozen is not None:
            return self._quantize(inputs, *self.bounds()) if self.frozen else inputs

        def on():
            lower, upper = self.bounds()
            zero_point = ops.round(ops.divide(lower, self.step()))
            middle = ops.multiply(self.step(), zero_point + 2 ** (self.bits - 1))
            away = ops.sign(ops.subtract(inputs, ops.cast(middle, inputs.dtype)))
            nudge = ops.cast(ops.multiply(self.step(), HALF_AWAY), inputs.dtype)
            return self._quantize(ops.add(inputs, nudge * away), lower, upper)

        return choose(self.is_on(), on, lambda: inputs)

    def _quantize(self, inputs, lower, upper, **options):
        bounds = _apart(lower, upper)
        return quantize_activation(inputs, *bounds, bits=self.bits, **options)

    def _on_device(self, inputs, rectify):
        """Round exactly as LiteRT does, while the gradients are those of `_quantize`.

        Where the device has integers, it rescales those; anything else is divided.
        """
        lower, upper = _apart(*self.bounds())
        rounded = self._quantize(inputs, lower, upper, rectify=rectify)
        own, sums = self.step(), sums_of(inputs)
        values = ops.cast(inputs, "float32")
        if sums is None:
            integers = ops.round(ops.divide(values, own))
        else:
            integers = sums.integers(values, own)
        least = ops.round(ops.divide(lower, own))
        exact = own * ops.clip(integers, least, ops.add(least, 2**self.bits - 1))
        exact = ops.cast(exact, rounded.dtype)
        return ops.add(rounded, ops.stop_gradient(ops.subtract(exact, rounded)))

    def _learn(self, inputs, active, rectify):
        """Move the range, if the quantiser is active, and round within the new one."""
        past = self.bounds()

        def on():
            batch = _extremes(inputs, rectify)
            bounds = self._moved(batch, past)
            options = {"rectify": rectify, "extremes": batch}
            return (self._quantize(inputs, *bounds, **options), *bounds)

        def off():
            return (ops.relu(inputs) if rectify else inputs, *past)

        outputs, lower, upper = choose(active, on, off)
        self.lower.assign(lower)
        self.upper.assign(upper)
        return outputs

    def _moved(self, batch, past):
        first = ops.equal(*past)
        return tuple(
            ops.where(first, new, self.momentum * old + (1 - self.momentum) * new)
            for old, new in zip(past, batch, strict=True)
        )

    def freeze(self, *, keep=True):
        bounds = (ops.convert_to_numpy(bound) for bound in (self.lower, self.upper))
        self.frozen_bounds = [bound.item() for bound in bounds]
        super().freeze(keep=keep)

    def get_config(self):
        return {
            **super().get_config(),
            "fixed_range": self.fixed_range,
            "momentum": self.momentum,
            "bits": self.bits,
        }


def _apart(lower, upper):
    return lower, ops.maximum(upper, ops.add(lower, SMALLEST_RANGE))


def _same(inputs):
    return inputs


def _extremes(inputs, rectify):
    """The smallest and largest value of a batch, zero among them."""
    inputs = ops.stop_gradient(ops.cast(inputs, "float32"))
    smallest = 0.0 if rectify else ops.minimum(ops.min(inputs), 0.0)
    return ops.convert_to_tensor(smallest), ops.maximum(ops.max(inputs), 0.0)
