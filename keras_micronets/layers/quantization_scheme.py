from dataclasses import dataclass, field

import keras

from keras_micronets.layers.activation_quantizer import ActivationQuantizer
from keras_micronets.layers.kernel_quantizer import KernelQuantizer
from keras_micronets.layers.learned_activation_quantizer import (
    LearnedActivationQuantizer,
)
from keras_micronets.layers.learned_kernel_quantizer import LearnedKernelQuantizer
from keras_micronets.ranges import LearnedStep, MovingAverage, Ranges


@keras.saving.register_keras_serializable(package="keras_micronets")
@dataclass(frozen=True)
class QuantizationScheme:
    """What fake quantisers a model's layers get: their ranges and their widths.

    Args:
        ranges: How ranges are found: a value of `keras_micronets.ranges`. Defaults
            to `MovingAverage()`.
        kernel_bits: Integer from 2 to 8. Defaults to `8`.
        activation_bits: Integer from 2 to 8. Defaults to `8`.

    Raises:
        ValueError: If an argument is none of these.

    Example:

    ```python
    scheme = keras_micronets.layers.QuantizationScheme(kernel_bits=4)
    keras_micronets.layers.promote(model, quantize=scheme)
    ```
    """

    ranges: Ranges = field(default_factory=MovingAverage)
    kernel_bits: int = 8
    activation_bits: int = 8

    def __post_init__(self):
        if not isinstance(self.ranges, Ranges):
            raise ValueError(
                "Expected `ranges` to be a value of keras_micronets.ranges, such as "
                f"MovingAverage(0.99). Received: ranges={self.ranges!r}."
            )
        _check_bits("kernel_bits", self.kernel_bits)
        _check_bits("activation_bits", self.activation_bits)

    def activation_quantizer(self, *, fixed_range=None, **kwargs):
        """Make a quantiser of activations; keyword arguments are those of a layer."""
        learned = self._learns_steps and fixed_range is None
        make = LearnedActivationQuantizer if learned else ActivationQuantizer
        return make(
            fixed_range=fixed_range,
            ranges=self.ranges,
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
        return isinstance(self.ranges, LearnedStep)

    def get_config(self) -> dict:
        """Return the arguments that make an equal scheme."""
        ranges = keras.saving.serialize_keras_object(self.ranges)
        return {**vars(self), "ranges": ranges}

    @classmethod
    def from_config(cls, config: dict) -> "QuantizationScheme":
        """Make a scheme from what `get_config` returned."""
        ranges = keras.saving.deserialize_keras_object(config["ranges"])
        return cls(**{**config, "ranges": ranges})


def _check_bits(name, bits):
    if bits not in range(2, 9):
        raise ValueError(
            f"Expected a whole number of bits from 2 to 8. Received: {name}={bits}."
        )
