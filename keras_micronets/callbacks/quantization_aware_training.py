from keras_micronets import layers
from keras_micronets.callbacks.base import ProgressCallback
from keras_micronets.layers import QuantizationScheme
from keras_micronets.layers.optimizer_slots import adopt_variables
from keras_micronets.layers.quantizers.observers import MovingAverage, Observer


class QuantizationAwareTraining(ProgressCallback):
    """Train a model as the integer network that a device will run.

    Fake quantisers are placed when `fit` begins, and switched on at `start`: from
    then on the forward pass rounds kernels and activations as LiteRT does, and the
    ranges of the activations are learned. The model is the device's simulation;
    `export_tflite` needs no calibration data. At the end of each epoch,
    `logs["quantized"]` is the share of the quantisers that are on.

    What moves beside the weights can be held for the end of the run, so that the
    weights settle on a network that stands still. The training step is then compiled
    once more. After the run nothing is held.

    Args:
        start: Float in [0, 1), the progress at which quantisation begins; where that
            is between two epochs, it begins with the second. Defaults to `0.0`.
        observer: How ranges are found, a value of `keras_micronets.observers`. `None`
            for `MovingAverage()`. Defaults to `None`.
        kernel_bits: Integer from 2 to 8. A file holds two weights a byte with up to 4
            bits, one with more; with 3, 5, 6 or 7 they are rounded once more, to 4 or
            8. `Conv2DTranspose` has 8 instead of 4. Defaults to `8`.
        activation_bits: Integer from 2 to 8, simulated: files have 8. Defaults to `8`.
        freeze_observers: Float in [`start`, 1], the progress from which ranges stay;
            `None` for never. Defaults to `None`.
        freeze_batch_norm: Float in [0, 1], the progress from which batch
            normalisation computes with its moving statistics, as the device does,
            and leaves them; `None` for never. Defaults to `None`.

    Raises:
        ValueError: When `fit` begins, if an argument lies outside its range, the
            model is not built or has no layer with a kernel, or has quantisers with
            other ranges or bits.

    Example:

    ```python
    qat = keras_micronets.callbacks.QuantizationAwareTraining(
        start=0.5, freeze_observers=0.9, freeze_batch_norm=0.8
    )
    model.fit(x, y, epochs=20, callbacks=[qat])
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

    def set_model(self, model):
        super().set_model(model)
        if not 0.0 <= self.start < 1.0:
            raise ValueError(
                "Expected `start` in [0, 1), a fraction of the run. "
                f"Received: start={self.start}."
            )
        _check_moment("freeze_observers", self.freeze_observers, self.start)
        _check_moment("freeze_batch_norm", self.freeze_batch_norm, 0.0)
        scheme = QuantizationScheme(
            self.observer or MovingAverage(), self.kernel_bits, self.activation_bits
        )
        n_trained = len(model.trainable_variables)
        layers.prepare(model, quantize=scheme).warn()
        if len(model.trainable_variables) > n_trained:
            adopt_variables(model)

    def on_train_begin(self, logs=None):
        self._is_on = False
        self._held = None  # what an interrupted run may have left is not known

    def on_train_batch_end(self, batch, logs=None):
        # Not between two epochs: a learner taken there would have quantisers that are
        # on and have seen no data.
        if batch + 1 < (self.params["steps"] or 0):
            super().on_train_batch_end(batch, logs)

    def on_progress(self, step, progress):
        if progress >= self.start and not self._is_on:
            layers.set_quantizers(self.model, True)
            self._is_on = True
        held = {
            "observers": _is_past(self.freeze_observers, progress),
            "statistics": _is_past(self.freeze_batch_norm, progress),
        }
        if held != self._held:
            layers.freeze(self.model, **held)
            self._held = held

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["quantized"] = layers.quantized_share(self.model)

    def on_train_end(self, logs=None):
        layers.freeze(self.model)


def _is_past(moment, progress):
    return moment is not None and progress >= moment


def _check_moment(name, moment, earliest):
    if moment is not None and not earliest <= moment <= 1.0:
        raise ValueError(
            f"Expected `{name}` in [{earliest}, 1], a fraction of the run, or `None`. "
            f"Received: {name}={moment}."
        )
