"""Fake quantisers of activations, with observed ranges or learned step sizes."""

import functools
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from keras_micronets._backend import (
    cond,
    is_readable,
    read,
    runs_on_torch,
    to_float64,
)
from keras_micronets._serialization import serializable
from keras_micronets.layers.graph import current_pass
from keras_micronets.layers.litert.fake_quant import quantize_activation
from keras_micronets.layers.litert.integer_operations import to_integers
from keras_micronets.layers.litert.provenance import tag
from keras_micronets.layers.quantizers.learned import (
    LearnedStep,
    add_dependence,
    gradient_scale,
    round_to_steps,
    scale_gradient,
)
from keras_micronets.layers.quantizers.observers import MovingAverage, Observer
from keras_micronets.layers.state import Quantizer

__all__ = [
    "SMALLEST_RANGE",
    "ActivationQuantizer",
    "LearnedActivationQuantizer",
    "union",
]

# The scale of a 32-bit bias is the product of the scales of input and kernel: at 4e-10
# a bias of 1 overflows (measured with LiteRT 2.3). This range and
# SMALLEST_KERNEL_RANGE keep the product above 6e-10.
SMALLEST_RANGE = 5e-3
FILE_BITS = 8  # also for fewer `bits`, which only training and inference simulate
# In steps: moves averages off a half, yet distinguishes those of up to 500 integers.
_NUDGE = 1e-3


@serializable()
class ActivationQuantizer(Quantizer):
    """Round a tensor to the integers that LiteRT computes with.

    It does nothing until `active` is set. From then on each training batch moves the
    range by what `observer` measures, unless `frozen` is set or the batch has values
    that are not finite. Zero is always representable. Tensors that a concatenation
    reads share the smallest range that contains all of their ranges (`SharedRange`).
    Gradients pass for values inside the range and are zero outside (Jacob et al. 2018).
    In inference it rounds to exactly LiteRT's integers.

    Args:
        fixed_range: Tuple `(lower, upper)` if LiteRT fixes the range, as it does
            for a softmax's output; `None` to observe it. Defaults to `None`.
        observer: A value of `keras_micronets.observers`; `None` for
            `MovingAverage()`. Defaults to `None`.
        bits: Integer from 2 to 8; files have 8. Defaults to `8`.

    Call arguments:
        inputs: Float tensor of any shape.
        training: Boolean, whether to move the range.
        rectify: Boolean, whether to round `relu(inputs)`, which is cheaper than a
            separate `relu`. Defaults to `False`.

    Raises:
        ValueError: When called for an export, if it is on and has seen no data.
    """

    shared_range: Any = None  # a `SharedRange`
    reads_training = True

    def __init__(
        self,
        *,
        fixed_range: tuple[float, float] | None = None,
        observer: Observer | None = None,
        bits: int = 8,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.fixed_range = fixed_range and tuple(fixed_range)
        self.observer = observer or MovingAverage()
        self.bits = bits

    def build(self, input_shape: Any = None) -> None:
        super().build(input_shape)
        lower, upper = self.fixed_range or (0.0, 0.0)
        constant = keras.initializers.Constant
        self.lower = self.add_float("lower", initializer=constant(lower))
        self.upper = self.add_float("upper", initializer=constant(upper))

    def call(self, inputs: Any, training: bool = False, rectify: bool = False) -> Any:
        return tag(self._rounded(inputs, training, rectify), self)

    def _rounded(self, inputs, training, rectify):
        shared = self._united() or self.shared_range
        if rectify and training and shared:  # its lower bound is not 0
            return self._rounded(ops.relu(inputs), training, rectify=False)
        rectified = ops.relu if rectify else _same
        if self.constant is not None:
            outputs = rectified(inputs)
            return self._quantize_constant(outputs) if self.constant else outputs
        if training and self.learns:
            return self._learn(inputs, read(self.active), rectify)
        bounds, is_on = self.bounds(), self.is_on()
        if training:
            return self._quantize(inputs, *bounds, rectify=rectify, active=is_on)
        on_device = functools.partial(self._on_device, inputs, bounds, rectify)
        return cond(is_on, on_device, lambda: rectified(inputs))

    def _quantize_constant(self, inputs):
        lower, upper = self.bounds()
        if not lower < upper:
            raise ValueError(
                "Expected quantisers that have seen data. Received: "
                f"{self.lower.path.rpartition('/')[0]!r}, which is on and has seen no "
                "data. Train it on a batch, or switch it off with "
                "`quantizer.active.assign(False)`, so that its tensor stays in float."
            )
        return self._quantize(inputs, lower, upper)

    @property
    def learns(self) -> bool:
        """Whether training moves the range."""
        return self.fixed_range is None and not self.frozen

    def is_on(self) -> Any:
        """Return whether the quantiser rounds: it does once it has seen a batch."""
        on = super().is_on()
        if self.constant is not None:
            return on
        return ops.logical_and(on, ops.less(*self.bounds()))

    def bounds(self) -> Any:
        """Return the range `(lower, upper)`: tensors, or numbers if it is constant."""
        if self.constant is None:
            return self.live_bounds()
        united = self._united()
        return self.constant_bounds if united is None else united.constant_bounds()

    def live_bounds(self) -> tuple[Any, Any]:
        """Return the (shared) range from the variables, even while it is constant."""
        shared = self._united() or self.shared_range
        return self.own_bounds() if shared is None else shared.bounds()

    def _united(self):
        """Return the range of several calls if the present one is unknown."""
        present = current_pass()
        return None if present is None else present.united.get(self)

    def own_bounds(self) -> tuple[Any, Any]:
        """Return the range of its own tensor, without those it shares a range with."""
        return read(self.lower), read(self.upper)

    def scale(self) -> Any:
        """Return the step size, the real value of one integer."""
        lower, upper = _widened(*self.bounds())
        span = ops.subtract(to_float64(upper), to_float64(lower))
        return ops.cast(ops.divide(span, 2**self._bits - 1), "float32")

    @property
    def _bits(self):
        return self.bits if self.constant is None else FILE_BITS

    def zero_point(self) -> Any:
        """Return the signed integer that represents zero."""
        return ops.subtract(-(2 ** (self._bits - 1)), self.smallest())

    def smallest(self) -> Any:
        """Return the integer of the lower bound, counted from the zero point."""
        return ops.round(ops.divide(self.bounds()[0], self.scale()))

    def average(self, inputs: Any, *, upwards: bool = False) -> Any:
        """Round averages of this quantiser's tensor, which LiteRT keeps in its range.

        Averages of few integers are often halves, so their rounding matters.

        Args:
            inputs: Float tensor.
            upwards: Boolean, whether to round halves up, as LiteRT does between pixels;
                `False` to round them away from its integer 0, the middle of the range.
                Defaults to `False`.
        """
        if self.constant is not None:
            return self._quantize(inputs, *self.bounds()) if self.constant else inputs

        def on():
            middle = ops.negative(ops.multiply(self.scale(), self.zero_point()))
            away = ops.sign(ops.subtract(inputs, ops.cast(middle, inputs.dtype)))
            nudge = ops.cast(ops.multiply(self.scale(), _NUDGE), inputs.dtype)
            nudge = nudge if upwards else nudge * away
            return self._quantize(ops.add(inputs, nudge), *self.bounds())

        return cond(self.is_on(), on, lambda: inputs)

    def _quantize(self, inputs, lower, upper, **options):
        bounds = _widened(lower, upper)
        return quantize_activation(inputs, *bounds, bits=self._bits, **options)

    def _on_device(self, inputs, bounds, rectify):
        """Round exactly as LiteRT does, with the gradients of `_quantize`."""
        lower, upper = _widened(*bounds)
        rounded = self._quantize(inputs, lower, upper, rectify=rectify)
        smallest = self.smallest()
        largest = ops.add(smallest, 2**self.bits - 1)
        smallest = ops.maximum(smallest, 0) if rectify else smallest
        exact = self.scale() * ops.clip(to_integers(inputs, self), smallest, largest)
        exact = ops.cast(exact, rounded.dtype)
        return ops.add(rounded, ops.stop_gradient(ops.subtract(exact, rounded)))

    def _learn(self, inputs, active, rectify):
        """Move the range if the quantiser is active, and round within the new range.

        The calls of one pass of the model move it once, by the union of their extremes.
        """
        earlier = self._measured_earlier()
        past = self.own_bounds() if earlier is None else earlier[0]
        shared = self._united() or self.shared_range
        others = shared and shared.bounds(without=self)

        def on():
            batch = self.observer.measure(inputs, rectify=rectify)
            every = batch if earlier is None else union(batch, earlier[1])
            own = self._moved(every, past)
            bounds = own if others is None else union(own, others)
            return bounds, own, every, batch

        bounds, own, every, batch = cond(active, on, lambda: (past,) * 4)
        self._note_measured(past, every)
        self.lower.assign(own[0])
        self.upper.assign(own[1])
        extremes = batch if isinstance(self.observer, MovingAverage) else None
        options = {"rectify": rectify, "extremes": extremes, "active": active}
        return self._quantize(inputs, *bounds, **options)

    def round_in_loop(self, inputs: Any) -> Any:
        """Round within the present range in training, without moving it.

        A step of a loop cannot assign variables: `observe` moves the range afterwards,
        for the next batch.

        Args:
            inputs: Float tensor of any shape.
        """
        return tag(cond(self.is_on(), *self._in_loop(inputs)), self)

    def _in_loop(self, inputs):
        """Return functions that round, and that do not."""
        bounds = self.bounds()
        return lambda: self._quantize(inputs, *bounds), lambda: inputs

    def observe(self, extremes: tuple[Any, Any]) -> None:
        """Move the range, once a pass, by what `observer` has measured in a loop.

        Args:
            extremes: Tuple `(lower, upper)`, the union of what was measured.
        """
        earlier = self._measured_earlier()
        past = self.own_bounds() if earlier is None else earlier[0]

        def on():
            every = extremes if earlier is None else union(extremes, earlier[1])
            return (*self._moved(every, past), *every)

        moved = cond(read(self.active), on, lambda: (*past, *past))
        self._note_measured(past, moved[2:])
        self.lower.assign(moved[0])
        self.upper.assign(moved[1])

    def _measured_earlier(self):
        """Return the range before the pass and the extremes of its earlier calls."""
        present = current_pass()
        earlier = None if present is None else present.measured.get(self)
        return earlier if earlier and is_readable(earlier[1][0]) else None

    def _note_measured(self, past, extremes):
        present = current_pass()
        if present is not None:
            present.measured[self] = past, extremes

    def _moved(self, batch, past):
        """Return the range `past` after a batch with the range `batch`."""
        numbers = *batch, *past
        if not runs_on_torch(batch[0]):
            return self._average(ops, *numbers)
        numbers = np.split(ops.convert_to_numpy(ops.stack(numbers)), 4)
        with np.errstate(all="ignore"):
            return tuple(bound[0] for bound in self._average(np, *numbers))

    def _average(self, compute, lower, upper, old_lower, old_upper):
        """Average with the functions of `keras.ops` or of NumPy."""
        finite = compute.isfinite(compute.subtract(upper, lower))
        momentum, width = self.observer.momentum, compute.subtract(old_upper, old_lower)
        first = compute.less_equal(width, SMALLEST_RANGE)
        lower, upper = (
            compute.where(first, new, momentum * old + (1 - momentum) * new)
            for old, new in ((old_lower, lower), (old_upper, upper))
        )
        upper = compute.maximum(upper, compute.add(lower, SMALLEST_RANGE))
        lower = compute.where(finite, lower, old_lower)
        return lower, compute.where(finite, upper, old_upper)

    def make_constant(self, *, keep: bool = True) -> None:
        super().make_constant(keep=keep)
        self.constant_bounds = [
            ops.convert_to_numpy(bound).item() for bound in self.live_bounds()
        ]

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "fixed_range": self.fixed_range,
            "observer": keras.saving.serialize_keras_object(self.observer),
            "bits": self.bits,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        config = dict(config)
        saved = config.pop("ranges", None) or config.pop("observer")  # 0.1.0: ranges
        observer = keras.saving.deserialize_keras_object(saved)
        return super().from_config({**config, "observer": observer})


def _widened(lower, upper):
    if isinstance(upper, np.floating):
        return lower, max(upper, lower + np.float32(SMALLEST_RANGE))
    return lower, ops.maximum(upper, ops.add(lower, SMALLEST_RANGE))


def union(first: tuple, second: tuple) -> tuple:
    """Return the smallest range `(lower, upper)` that contains two."""
    return ops.minimum(first[0], second[0]), ops.maximum(first[1], second[1])


def _same(inputs):
    return inputs


@serializable()
class LearnedActivationQuantizer(LearnedStep, ActivationQuantizer):
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
        earlier = self._measured_earlier()
        past = self.own_bounds() if earlier is None else earlier[0]

        def on():
            batch = self.observer.measure(inputs)
            every = batch if earlier is None else union(batch, earlier[1])
            initial = list(map(ops.convert_to_tensor, self._moved(every, past)))
            return (self._round(inputs, initial), *initial, *every)

        def off():
            unchanged = add_dependence(inputs, self.step, self.offset)
            return (unchanged, *past, *past)

        outputs, lower, upper, *every = cond(active, on, off)
        self._note_measured(past, every)
        self.lower.assign(lower)
        self.upper.assign(upper)
        return outputs

    def _in_loop(self, inputs):
        unchanged = add_dependence(inputs, self.step, self.offset)
        return lambda: self._round(inputs, self.own_bounds()), lambda: unchanged

    def _round(self, inputs, initial):
        values = ops.cast(inputs, "float32")
        step, lower = self._steps(initial, ops.size(values) / ops.shape(values)[0])
        # Without a finite first batch the step size is 0.
        step = ops.maximum(step, SMALLEST_RANGE / self._levels)
        rounded = round_to_steps(values - lower, step, 0, self._levels) + lower
        return ops.cast(rounded, inputs.dtype)
