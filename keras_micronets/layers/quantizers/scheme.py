"""Which tensors of a layer are quantised, and how."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import keras

from keras_micronets._serialization import Configurable, serializable
from keras_micronets.layers.quantizers.activation import (
    ActivationQuantizer,
    LearnedActivationQuantizer,
)
from keras_micronets.layers.quantizers.kernel import (
    KernelQuantizer,
    LearnedKernelQuantizer,
)
from keras_micronets.layers.quantizers.observers import (
    LearnedStepSize,
    MovingAverage,
    Observer,
)

__all__ = ["QuantizationScheme", "QuantizerSpec", "as_quantizer_spec", "call_prefix"]


@serializable()
@dataclass(frozen=True)
class QuantizerSpec(Configurable):
    """Specify which tensors of a layer have a fake quantiser.

    Args:
        kernel: Boolean, whether every kernel of the layer has one. Defaults to `False`.
        per_unit: Boolean, whether the kernel of a Dense layer has a scale for each
            unit, as batch normalisation after it needs. Defaults to `False`.
        inputs: Tuple of integers, positions of the tensors that are rounded where the
            layer reads them. Defaults to `()`.
        preactivation: Boolean, whether the input of the layer's activation is rounded.
            Needed where LiteRT computes the activation as another operation. Defaults
            to `False`.
        gate: Boolean, whether the sigmoid or tanh within the layer's activation is
            rounded. Defaults to `False`.
        output: Boolean, whether the output is rounded. Defaults to `False`.
        partials: Integer, number of sums or products of the first inputs that are
            rounded, where a layer merges more than two. Defaults to 0.
        after_pooling: Boolean, whether the layer is a rectifier that reads a pooled
            tensor, and must stay a separate operation. Defaults to `False`.
        attention: Boolean, whether the scaled query, the scores and the probabilities
            of an attention layer are rounded. Defaults to `False`.
        later: Tuple of a `QuantizerSpec` for each call after the first, if the calls of
            the layer have quantisers of their own tensors. Defaults to `()`: all calls
            have the same quantisers.
    """

    kernel: bool = False
    per_unit: bool = False
    inputs: tuple[int, ...] = ()
    preactivation: bool = False
    gate: bool = False
    output: bool = False
    partials: int = 0
    after_pooling: bool = False
    attention: bool = False
    later: tuple["QuantizerSpec", ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "inputs", tuple(sorted(set(self.inputs))))
        object.__setattr__(self, "later", tuple(self.later))

    @classmethod
    def of_calls(cls, calls: Sequence["QuantizerSpec"]) -> "QuantizerSpec":
        """Return the specification of a layer from those of its calls."""
        kernel = any(call.kernel for call in calls)
        per_unit = any(call.per_unit for call in calls)
        first, *later = (replace(x, kernel=False, per_unit=False) for x in calls)
        return replace(first, kernel=kernel, per_unit=per_unit, later=tuple(later))

    @classmethod
    def from_names(cls, names: Iterable[str]) -> Self:
        """Read a specification from a list of names, as earlier versions saved it."""
        names = set(names)
        inputs = [int(name[6:]) for name in names if name.startswith("input_")]
        tensors = names & {"kernel", "preactivation", "gate", "output"}
        flags: dict[str, Any] = dict.fromkeys(tensors, True)
        return cls(inputs=tuple(inputs), per_unit="channels" in names, **flags)

    @property
    def calls(self) -> tuple["QuantizerSpec", ...]:
        """The specifications of the calls, each of which has quantisers."""
        return (replace(self, later=()), *self.later)

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the tensors of the first call, as `"input_0"` or `"output"`."""
        inputs = (f"input_{position}" for position in self.inputs)
        last = (x for x in ("preactivation", "gate", "output") if getattr(self, x))
        partials = (f"partial_{number}" for number in range(1, self.partials + 1))
        attention = ("scaled_query", "scores", "probabilities") * self.attention
        return (*inputs, *partials, *attention, *last)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors: also `"kernel"`, and `"call_2_output"` of a call."""
        later = (
            call_prefix(number) + name
            for number, call in enumerate(self.later, 1)
            for name in call.tensors
        )
        return (*("kernel",) * self.kernel, *self.tensors, *later)

    def __bool__(self):
        return bool(self.names)

    def __or__(self, other: "QuantizerSpec") -> "QuantizerSpec":
        """Return the specification of the tensors in either.

        A layer that has quantisers keeps their number: what the calls in `other` have
        is added to each call.
        """
        if not self:
            return replace(other, per_unit=self.per_unit or other.per_unit)
        calls, others = self.calls, other.calls
        if len(others) != len(calls):
            others = (functools.reduce(_either, others),) * len(calls)
        return self.of_calls(list(map(_either, calls, others)))


def call_prefix(number: int) -> str:
    """Return how the names of the tensors of a layer's call begin."""
    return f"call_{number + 1}_" if number else ""


def _either(first, second):
    flags: Any = {
        name: value or getattr(second, name)
        for name, value in vars(first).items()
        if isinstance(value, bool)
    }
    partials = max(first.partials, second.partials)
    inputs = first.inputs + second.inputs
    return QuantizerSpec(inputs=inputs, partials=partials, **flags)


def as_quantizer_spec(value: Any) -> QuantizerSpec:
    """Return the specification in a layer's argument or configuration.

    Args:
        value: A `QuantizerSpec`, its configuration as Keras saves it, a list of names
            as earlier versions saved it, or `None` for no quantisers.
    """
    if isinstance(value, dict):
        value = keras.saving.deserialize_keras_object(value)
    if isinstance(value, QuantizerSpec):
        return value
    return QuantizerSpec.from_names(value or ())


@serializable()
@dataclass(frozen=True)
class QuantizationScheme(Configurable):
    """Configure the fake quantisers of a model: observer and bit widths.

    Args:
        observer: How the ranges of activations are found: a value of
            `keras_micronets.observers`. Defaults to `MovingAverage()`.
        kernel_bits: Integer from 2 to 8. Use fewer for smaller files; files store 4 or
            8. Defaults to `8`.
        activation_bits: Integer from 2 to 8, simulated only: files have 8 in the same
            ranges. Defaults to `8`.

    Raises:
        ValueError: If an argument has another type or is out of range.

    Example:

    ```python
    scheme = kmn.layers.QuantizationScheme(kernel_bits=4)
    kmn.layers.prepare(model, quantize=scheme)
    ```
    """

    renamed = {"ranges": "observer"}

    observer: Observer = field(default_factory=MovingAverage)
    kernel_bits: int = 8
    activation_bits: int = 8

    def __post_init__(self):
        if not isinstance(self.observer, Observer):
            raise ValueError(
                "Expected `observer` to be a value of keras_micronets.observers, such "
                f"as MovingAverage(0.99). Received: observer={self.observer!r}."
            )
        _check_bits("kernel_bits", self.kernel_bits)
        _check_bits("activation_bits", self.activation_bits)

    def activation_quantizer(
        self, *, fixed_range: tuple[float, float] | None = None, **kwargs: Any
    ) -> ActivationQuantizer:
        """Make a quantiser of activations; `kwargs` are a layer's arguments."""
        learned = self._learns_steps and fixed_range is None
        make = LearnedActivationQuantizer if learned else ActivationQuantizer
        return make(
            fixed_range=fixed_range,
            observer=self.observer,
            bits=self.activation_bits,
            **kwargs,
        )

    def kernel_quantizer(
        self, *, axis: int | None = None, min_bits: int = 2, **kwargs: Any
    ) -> KernelQuantizer:
        """Make a quantiser of kernels; `kwargs` are a layer's arguments.

        It has 8 bits if the scheme has fewer than `min_bits`, the fewest that LiteRT
        supports for the layer.
        """
        make = LearnedKernelQuantizer if self._learns_steps else KernelQuantizer
        bits = self.kernel_bits if self.kernel_bits >= min_bits else 8
        return make(axis=axis, bits=bits, **kwargs)

    @property
    def _learns_steps(self):
        return isinstance(self.observer, LearnedStepSize)


def _check_bits(name, bits):
    if bits not in range(2, 9):
        raise ValueError(
            f"Expected an integer number of bits from 2 to 8. Received: {name}={bits}."
        )
