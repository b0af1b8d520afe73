from keras_micronets import layers
from keras_micronets.callbacks.progress_callback import ProgressCallback


class QuantizationAwareTraining(ProgressCallback):
    """Train a model as the integer network that a device will run.

    Fake quantisers are placed when `fit` begins, and switched on at `start`: from
    then on the forward pass rounds kernels and activations to 8 bits as LiteRT
    does, and the ranges of the activations are learned. The model is the device's
    simulation; `export_tflite` needs no calibration data. At the end of each
    epoch, `logs["quantized"]` is the share of the quantisers that are on.

    Args:
        start: Float in [0, 1), the progress at which quantisation begins. Defaults
            to `0.0`.

    Raises:
        ValueError: When `fit` begins, if `start` lies outside [0, 1), or the model
            is not built or has no layer with a kernel.

    Example:

    ```python
    qat = keras_micronets.callbacks.QuantizationAwareTraining(start=0.5)
    model.fit(x, y, epochs=20, callbacks=[qat])
    keras_micronets.export_tflite(model, "model.tflite")
    ```

    Reference: Jacob et al. 2018, "Quantization and Training of Neural Networks for
    Efficient Integer-Arithmetic-Only Inference".
    """

    def __init__(self, start: float = 0.0):
        super().__init__()
        self.start = start

    def set_model(self, model):
        super().set_model(model)
        if not 0.0 <= self.start < 1.0:
            raise ValueError(
                "Expected `start` in [0, 1), a fraction of the run. "
                f"Received: start={self.start}."
            )
        layers.promote(model, quantize=True).warn()

    def on_train_begin(self, logs=None):
        self._is_on = False

    def on_progress(self, step, progress):
        if progress >= self.start and not self._is_on:
            layers.set_quantizers(self.model, True)
            self._is_on = True

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["quantized"] = layers.quantized_share(self.model)
