import keras

from keras_micronets import layers
from keras_micronets._serialization import serializable
from keras_micronets.callbacks.base import (
    ProgressCallback,
    check_fraction,
    warn_of_early_best,
)
from keras_micronets.layers import QuantizationScheme
from keras_micronets.layers.optimizer_slots import adopt_variables
from keras_micronets.layers.quantizers.input_scales import warn_of_tiny_inputs
from keras_micronets.layers.quantizers.observers import MovingAverage, Observer

__all__ = ["QuantizationAwareTraining"]


@serializable()
class QuantizationAwareTraining(ProgressCallback):
    """Train a model as the integer network that a device runs.

    When `fit` begins, fake quantisers are added in place; they are switched on at
    `start`. From then on the forward pass rounds kernels and activations as LiteRT
    does, observers track the ranges of the activations, and the model simulates the
    device: `export_tflite` needs no calibration data. At the end of each epoch,
    `logs["quantized"]` is the share of the quantisers that are on.

    In mixed precision, training stays mixed, and inference computes in float32, as the
    device does.

    `LSTM` and `GRU` layers are quantised in each step, also within `Bidirectional`. A
    tensor has one range for all steps. Their number must be fixed and at least three,
    activations must be the default ones, states begin at zero, and no step be masked.
    Files have the operations of each step. Training steps take up to several times as
    long as in float, and most on PyTorch, which runs the loop in Python.

    Ranges and batch normalisation can be frozen towards the end of the run, so that the
    weights adapt to constant values. The training step is then compiled once more.
    After the run nothing is frozen.

    Args:
        start: Float in [0, 1), the progress at which quantisation begins; if that is
            between two epochs, it begins with the second. Defaults to `0.0`.
        observer: How ranges are found, a value of `keras_micronets.observers`. `None`
            for `MovingAverage()`. Defaults to `None`.
        kernel_bits: Integer from 2 to 8. A file stores 2 to 4 bits in half a byte and
            more in a whole byte; kernels of 3, 5, 6 or 7 bits are rounded once more, to
            4 or 8. With 4 bits or fewer, `Conv1DTranspose` and `Conv2DTranspose` use 8.
            Defaults to `8`.
        activation_bits: Integer from 2 to 8, simulated only: files have 8. Defaults to
            `8`.
        freeze_observers: Float in [`start`, 1], the progress from which ranges are
            frozen; `None` for never. Defaults to `None`.
        freeze_batch_norm: Float in [0, 1], the progress from which batch
            normalisation uses its moving statistics, as on the device, and does not
            update them; `None` for never. Defaults to `None`.

    Raises:
        ValueError: When `fit` begins, if an argument lies outside its range, the
            model is not built or has no layer with a kernel, or has quantisers with
            another observer or other bits.

    Example:

    ```python
    qat = keras_micronets.callbacks.QuantizationAwareTraining(
        start=0.5, freeze_observers=0.9, freeze_batch_norm=0.8
    )
    model.fit(x, y, epochs=2, callbacks=[qat])
    keras_micronets.export_tflite(model, "model.tflite")
    ```

    Reference: Jacob et al. 2018, "Quantization and Training of Neural Networks for
    Efficient Integer-Arithmetic-Only Inference".
    """

    def __init__(
        self,
        start: float = 0.0,
        *,
        observer: Observer | None = None,
        kernel_bits: int = 8,
        activation_bits: int = 8,
        freeze_observers: float | None = None,
        freeze_batch_norm: float | None = None,
    ):
        super().__init__()
        self.start = start
        self.observer = observer
        self.kernel_bits = kernel_bits
        self.activation_bits = activation_bits
        self.freeze_observers = freeze_observers
        self.freeze_batch_norm = freeze_batch_norm

    def prepare(self, model: keras.Model) -> None:
        check_fraction("start", self.start)
        _check_freeze("freeze_observers", self.freeze_observers, self.start)
        _check_freeze("freeze_batch_norm", self.freeze_batch_norm, 0.0)
        scheme = QuantizationScheme(
            self.observer or MovingAverage(), self.kernel_bits, self.activation_bits
        )
        n_trained = len(model.trainable_variables)
        layers.prepare(model, quantize=scheme).warn()
        if len(model.trainable_variables) > n_trained:
            adopt_variables(model)

    def on_train_begin(self, logs: dict | None = None) -> None:
        super().on_train_begin(logs)
        self._is_on = self._has_checked = False
        self._frozen: dict[str, bool] | None = None  # unknown after an interrupted run
        warn_of_early_best(self)

    def completes_at(self, progress: float) -> bool:
        return progress > self.start

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        # Not between two epochs: a learner saved there would have quantisers that are
        # on and have seen no data.
        if batch + 1 < (self.params["steps"] or 0):
            super().on_train_batch_end(batch, logs)

    def on_progress(self, step: int, progress: float) -> None:
        if progress >= self.start and not self._is_on:
            layers.set_quantizers(self.model, True)
            self._is_on = True
        frozen = {
            "observers": _is_past(self.freeze_observers, progress),
            "statistics": _is_past(self.freeze_batch_norm, progress),
        }
        if frozen != self._frozen:
            layers.freeze(self.model, **frozen)
            self._frozen = frozen

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if logs is not None:
            logs["quantized"] = layers.quantized_share(self.model)
        if self._is_on and not self._has_checked:
            self._has_checked = True
            for member in layers.members_of(self.model):
                warn_of_tiny_inputs(member)

    def on_train_end(self, logs: dict | None = None) -> None:
        layers.freeze(self.model)


def _is_past(freeze, progress):
    return freeze is not None and progress >= freeze


def _check_freeze(name, freeze, earliest):
    if freeze is not None and not earliest <= freeze <= 1.0:
        raise ValueError(
            f"Expected `{name}` in [{earliest}, 1], a fraction of the run, or `None`. "
            f"Received: {name}={freeze}."
        )
