from dataclasses import dataclass, field

import keras

from keras_micronets.layers.quantizers.activation import ActivationQuantizer
from keras_micronets.layers.quantizers.kernel import KernelQuantizer
from keras_micronets.layers.quantizers.learned import (
    LearnedActivationQuantizer,
    LearnedKernelQuantizer,
)
from keras_micronets.layers.quantizers.observers import (
    LearnedStepSize,
    MovingAverage,
    Observer,
    with_observer,
)


@keras.saving.register_keras_serializable(package="keras_micronets")
@dataclass(frozen=True)
class QuantizationScheme:
    """What fake quantisers a model's layers get: their ranges and their widths.

    Args:
        observer: How ranges are found: a value of `keras_micronets.observers`. Defaults
            to `MovingAverage()`.
        kernel_bits: Integer from 2 to 8. Defaults to `8`.
        activation_bits: Integer from 2 to 8. Defaults to `8`.

    Raises:
        ValueError: If an argument is none of these.

    Example:

    ```python
    scheme = keras_micronets.layers.QuantizationScheme(kernel_bits=4)
    keras_micronets.layers.prepare(model, quantize=scheme)
    ```
    """

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

    def activation_quantizer(self, *, fixed_range=None, **kwargs):
        """Make a quantiser of activations; keyword arguments are those of a layer."""
        learned = self._learns_steps and fixed_range is None
        make = LearnedActivationQuantizer if learned else ActivationQuantizer
        return make(
            fixed_range=fixed_range,
            observer=self.observer,
            bits=self.activation_bits,
            **kwargs,
        )

    def kernel_quantizer(self, *, axis=None, least_bits=2, **kwargs):
        """Make a quantiser of kernels; keyword arguments are those of a layer.

        It has 8 bits where the device has no kernel as narrow as is wanted.
        """
        make = LearnedKernelQuantizer if self._learns_steps else KernelQuantizer
        bits = self.kernel_bits if self.kernel_bits >= least_bits else 8
        return make(axis=axis, bits=bits, **kwargs)

    @property
    def _learns_steps(self):
        return isinstance(self.observer, LearnedStepSize)

    def get_config(self) -> dict:
        """Return the arguments that make an equal scheme."""
        observer = keras.saving.serialize_keras_object(self.observer)
        return {**vars(self), "observer": observer}

    @classmethod
    def from_config(cls, config: dict) -> "QuantizationScheme":
        """Make a scheme from what `get_config` returned."""
        return cls(**with_observer(config))


def _check_bits(name, bits):
    if bits not in range(2, 9):
        raise ValueError(
            f"Expected a whole number of bits from 2 to 8. Received: {name}={bits}."
        )
