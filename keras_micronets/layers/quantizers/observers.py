"""How the ranges of fake quantisers are found: values that quantisers are given."""

from dataclasses import KW_ONLY, dataclass

import keras
from keras import ops

from keras_micronets._serialization import Configurable, serializable


class Observer(Configurable):
    """Base class of the ways to find the range of an activation.

    A way has a `momentum`, the weight of the past in the moving average of what
    `measure` returns.
    """

    momentum = 0.0

    def measure(self, inputs, *, rectify: bool = False):
        """Return the range `(lower, upper)` of a batch, zero within it.

        Args:
            inputs: Float tensor of any shape.
            rectify: Boolean, whether to measure `relu(inputs)`. Defaults to `False`.

        Returns:
            Tuple of two float32 tensors of one element, without gradients.
        """
        inputs = ops.stop_gradient(ops.cast(inputs, "float32"))
        smallest = 0.0 if rectify else ops.minimum(ops.min(inputs), 0.0)
        return ops.convert_to_tensor(smallest), ops.maximum(ops.max(inputs), 0.0)


@serializable()
@dataclass(frozen=True)
class MovingAverage(Observer):
    """The moving average of the batches' smallest and largest values.

    The first batch sets the range.

    Args:
        momentum: Float in [0, 1), the weight of the past. Defaults to `0.99`.

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
    """The moving average of percentiles of the batches, which leave outliers out.

    What lies beyond is clipped, and the steps between are finer. Large tensors are
    sampled: whole rows of channels, evenly spaced over the batch. A percentile is
    never finer than the sample: of 8,192 values, the 99.99th is nearly the largest.

    Args:
        percentile: Float in (50, 100], in per cent, the share of the values at or
            below the upper bound; as many are at or above the lower one. Defaults
            to `99.99`.
        momentum: Float in [0, 1), the weight of the past. Defaults to `0.99`.
        samples: Integer, about how many values of a batch are sorted. Defaults to
            `8192`.

    Raises:
        ValueError: If an argument lies outside its range.

    Example:

    ```python
    observer = keras_micronets.observers.Percentile(99.9)
    keras_micronets.callbacks.QuantizationAwareTraining(observer=observer)
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
                "Expected to sample one value or more. "
                f"Received: samples={self.samples}."
            )

    def measure(self, inputs, *, rectify=False):
        share = self.percentile / 100
        inputs = ops.stop_gradient(ops.convert_to_tensor(inputs))
        sample = _sample(inputs, self.samples)
        found = ops.quantile(sample, ops.array([1 - share, share], "float32"))
        # Sorting hides what is not a number; the sum does not.
        found = ops.add(found, ops.multiply(ops.sum(sample), 0.0))
        lower = ops.zeros_like(found[0]) if rectify else ops.minimum(found[0], 0.0)
        return lower, ops.maximum(found[1], 0.0)


@serializable("LearnedStep")
@dataclass(frozen=True)
class LearnedStepSize(Observer):
    """Steps that are trained with the weights, of activations and of kernels.

    The first batch, and the kernel when quantisation begins, give the first step;
    then gradients move it, scaled as in the paper. What is trained is the logarithm
    of its ratio to the first, within [-2, 2], so that it trains with any optimizer,
    and weight decay at most draws it back. Of use for few bits; costs more than the
    other ways. Adam suits it better than plain momentum.

    References: Esser et al. 2020, "Learned Step Size Quantization"; for tensors with
    negative values, Bhalgat et al. 2020, "LSQ+".
    """

    momentum = 1.0  # of the batches, the first alone counts


def _check_momentum(momentum):
    if not 0.0 <= momentum < 1.0:
        raise ValueError(
            "Expected a momentum in [0, 1), the weight of the past. "
            f"Received: momentum={momentum}."
        )


def _sample(inputs, size):
    """Take about `size` values of a tensor, in whole rows of its last axis."""
    channels = inputs.shape[-1]
    rows = ops.reshape(inputs, (-1, channels))
    stride = ops.shape(rows)[0] * channels // size
    stride = 2 * (stride // 2) + 1  # an odd one goes through the columns of an image
    return ops.cast(ops.reshape(rows[::stride], (-1,)), "float32")


def with_observer(config: dict) -> dict:
    """Deserialize the observer of a configuration; its key was `"ranges"` before."""
    config = dict(config)
    saved = config.pop("ranges", None) or config.pop("observer")
    return {**config, "observer": keras.saving.deserialize_keras_object(saved)}
