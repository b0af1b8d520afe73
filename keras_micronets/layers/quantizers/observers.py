"""Observers: how fake quantisers find the ranges of activations."""

from dataclasses import KW_ONLY, dataclass
from typing import Any

from keras import ops

from keras_micronets._serialization import Configurable, serializable

__all__ = ["LearnedStepSize", "MovingAverage", "Observer", "Percentile"]


class Observer(Configurable):
    """Base class of the observers.

    A quantiser's range is the moving average of what `measure` returns for each batch.
    `momentum` is the weight of earlier batches in it.
    """

    momentum = 0.0

    def measure(self, inputs: Any, *, rectify: bool = False) -> tuple[Any, Any]:
        """Return the range `(lower, upper)` of a batch, zero within it.

        Args:
            inputs: Float tensor of any shape.
            rectify: Boolean, whether to measure `relu(inputs)`. Defaults to `False`.

        Returns:
            Tuple of two float32 tensors of one element, without gradients.
        """
        inputs = ops.stop_gradient(ops.cast(inputs, "float32"))
        smallest = 0.0 if rectify else ops.minimum(ops.amin(inputs), 0.0)
        return ops.convert_to_tensor(smallest), ops.maximum(ops.amax(inputs), 0.0)


@serializable()
@dataclass(frozen=True)
class MovingAverage(Observer):
    """Average the smallest and largest values of the batches.

    The first batch sets the range.

    Args:
        momentum: Float in [0, 1), the weight of earlier batches. Defaults to `0.99`.

    Raises:
        ValueError: If `momentum` lies outside [0, 1).

    Reference: Jacob et al. 2018, "Quantization and Training of Neural Networks for
    Efficient Integer-Arithmetic-Only Inference".
    """

    momentum: float = 0.99

    def __post_init__(self):
        _check_momentum(self.momentum)


@serializable()
@dataclass(frozen=True)
class Percentile(Observer):
    """Average percentiles of the batches, which are robust to outliers.

    Values outside of the range are clipped, so the steps within it are finer. Large
    tensors are sampled in whole rows of channels, evenly spaced over the batch. The
    sample limits the percentile: of 8,192 values, the 99.99th is nearly the largest.

    Args:
        percentile: Float in (50, 100], the percentage of values at or below the upper
            bound; as many are at or above the lower bound. Defaults to `99.99`.
        momentum: Float in [0, 1), the weight of earlier batches. Defaults to `0.99`.
        samples: Integer, approximate number of values of a batch that are sorted. Use
            more for percentiles close to 100. Defaults to `8192`.

    Raises:
        ValueError: If an argument lies outside its range.

    Example:

    ```python
    observer = kmn.observers.Percentile(99.9)
    kmn.callbacks.QuantizationAwareTraining(observer=observer)
    ```
    """

    percentile: float = 99.99
    momentum: float = 0.99
    _: KW_ONLY
    samples: int = 8192

    def __post_init__(self):
        _check_momentum(self.momentum)
        if not 50 < self.percentile <= 100:
            raise ValueError(
                "Expected a percentile in (50, 100], in per cent. "
                f"Received: percentile={self.percentile}."
            )
        if self.samples < 1:
            raise ValueError(
                "Expected a positive number of samples. "
                f"Received: samples={self.samples}."
            )

    def measure(self, inputs: Any, *, rectify: bool = False) -> tuple[Any, Any]:
        share = self.percentile / 100
        inputs = ops.stop_gradient(ops.convert_to_tensor(inputs))
        sample = _sample(inputs, self.samples)
        bounds = ops.quantile(sample, ops.array([1 - share, share], "float32"))
        # Sorting hides values that are not finite; a sum does not.
        bounds = ops.add(bounds, ops.multiply(ops.sum(sample), 0.0))
        lower = ops.zeros_like(bounds[0]) if rectify else ops.minimum(bounds[0], 0.0)
        return lower, ops.maximum(bounds[1], 0.0)


@serializable("LearnedStep")
@dataclass(frozen=True)
class LearnedStepSize(Observer):
    """Learn the step sizes of activations and kernels with the weights.

    The first batch, or the kernel when quantisation begins, sets the first step size.
    Then gradients move it, scaled as in the paper. The trained variable is the
    logarithm of the ratio to the first step size, within [-2, 2]: it trains with any
    optimizer, and weight decay only pulls it towards the first step size. Use it for
    kernels or activations of few bits, preferably with Adam; it costs more than the
    other observers.

    References: Esser et al. 2020, "Learned Step Size Quantization"; for tensors with
    negative values, Bhalgat et al. 2020, "LSQ+".
    """

    momentum = 1.0  # only the first batch counts


def _check_momentum(momentum):
    if not 0.0 <= momentum < 1.0:
        raise ValueError(
            "Expected a momentum in [0, 1), the weight of earlier batches. "
            f"Received: momentum={momentum}."
        )


def _sample(inputs, size):
    """Return about `size` values of a tensor, in whole rows of its last axis."""
    channels = inputs.shape[-1]
    rows = ops.reshape(inputs, (-1, channels))
    stride = ops.shape(rows)[0] * channels // size
    stride = 2 * (stride // 2) + 1  # odd: visits all columns of an image
    return ops.cast(ops.reshape(rows[::stride], (-1,)), "float32")
