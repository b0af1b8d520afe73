import keras
from keras import ops

from keras_micronets.layers.fake_quant import quantize_activation
from keras_micronets.layers.state import Quantizer, choose, read
from keras_micronets.ranges import MovingAverage, Ranges

# A bias has the product of the scales of input and kernel, in 32 bits: at a product
# of 4e-10 a bias of 1 no longer fits, and the file's outputs are far off (measured
# with LiteRT 2.3; XNNPACK used to refuse such files). With the smallest range of a
# kernel, this one keeps the product above 6e-10.
SMALLEST_RANGE = 5e-3


@keras.saving.register_keras_serializable(package="keras_micronets")
class ActivationQuantizer(Quantizer):
    """Round a tensor to the 8-bit integers that the device will compute with.

    While training, the range follows what `ranges` measures of each batch, unless
    `held` is set. A batch with values that are not finite leaves it as it is. Zero
    is always representable. Gradients pass straight through inside the range and
    stop outside (Jacob et al. 2018). Does nothing, and observes nothing, until
    `active` is set; rounds nothing before it has seen a batch.

    Args:
        fixed_range: Tuple `(lower, upper)` where the device leaves no choice, as
            for the output of a softmax; `None` to learn the range. Defaults to
            `None`.
        ranges: A value of `keras_micronets.ranges`, how the range is learned; `None`
            for `MovingAverage()`. Defaults to `None`.
        bits: Integer from 2 to 8. Defaults to `8`.

    Call arguments:
        inputs: Float tensor of any shape.
        training: Boolean, whether to move the range.
        rectify: Boolean, whether to round `relu(inputs)` instead, which costs less
            than one after the other. Defaults to `False`.

    Raises:
        ValueError: When called for an export, if it is on and has seen no data.
    """

    def __init__(
        self,
        *,
        fixed_range: tuple[float, float] | None = None,
        ranges: Ranges | None = None,
        bits: int = 8,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.fixed_range = fixed_range and tuple(fixed_range)
        self.ranges = ranges or MovingAverage()
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
        rectified = ops.relu if rectify else _same
        if self.frozen is not None:
            outputs = rectified(inputs)
            return self._quantize_frozen(outputs) if self.frozen else outputs
        active = read(self.active)
        if training and self.learns:
            return self._learn(inputs, active, rectify)
        lower, upper = self.bounds()
        return choose(
            ops.logical_and(active, ops.less(lower, upper)),
            lambda: self._quantize(inputs, lower, upper, rectify=rectify),
            lambda: rectified(inputs),
        )

    def _quantize_frozen(self, inputs):
        lower, upper = self.frozen_bounds
        if not lower < upper:
            raise ValueError(
                "Expected quantisers whose ranges were learned. Received: "
                f"{self.lower.path.rpartition('/')[0]!r}, which is on and has seen no "
                "data. Train a batch that passes through it, or switch it off with "
                "`quantizer.active.assign(False)`: what it stands at stays in float."
            )
        return self._quantize(inputs, lower, upper)

    @property
    def learns(self):
        """Whether training moves the range."""
        return self.fixed_range is None and not self.held

    def bounds(self):
        """Return the tensors `(lower, upper)` of the range."""
        return read(self.lower), read(self.upper)

    def _quantize(self, inputs, lower, upper, **options):
        upper = ops.maximum(upper, ops.add(lower, SMALLEST_RANGE))
        return quantize_activation(inputs, lower, upper, bits=self.bits, **options)

    def _learn(self, inputs, active, rectify):
        """Move the range, if the quantiser is active, and round within the new one."""
        past = self.bounds()

        def on():
            batch = self.ranges.measure(inputs, rectify=rectify)
            bounds = self._moved(batch, past)
            extremes = batch if isinstance(self.ranges, MovingAverage) else None
            options = {"rectify": rectify, "extremes": extremes}
            return (self._quantize(inputs, *bounds, **options), *bounds)

        def off():
            return (ops.relu(inputs) if rectify else inputs, *past)

        outputs, lower, upper = choose(active, on, off)
        self.lower.assign(lower)
        self.upper.assign(upper)
        return outputs

    def _moved(self, batch, past):
        lower, upper = batch
        sound = ops.isfinite(ops.subtract(upper, lower))
        momentum = self.ranges.momentum
        first = ops.less_equal(ops.subtract(past[1], past[0]), SMALLEST_RANGE)
        lower, upper = (
            ops.where(first, new, momentum * old + (1 - momentum) * new)
            for old, new in zip(past, batch, strict=True)
        )
        upper = ops.maximum(upper, ops.add(lower, SMALLEST_RANGE))
        return ops.where(sound, lower, past[0]), ops.where(sound, upper, past[1])

    def freeze(self, *, keep=True):
        super().freeze(keep=keep)
        self.frozen_bounds = [
            ops.convert_to_numpy(bound).item() for bound in self.bounds()
        ]

    def get_config(self):
        return {
            **super().get_config(),
            "fixed_range": self.fixed_range,
            "ranges": keras.saving.serialize_keras_object(self.ranges),
            "bits": self.bits,
        }

    @classmethod
    def from_config(cls, config):
        ranges = keras.saving.deserialize_keras_object(config["ranges"])
        return super().from_config({**config, "ranges": ranges})


def _same(inputs):
    return inputs
