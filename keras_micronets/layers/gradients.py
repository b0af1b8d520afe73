import keras
import numpy as np
from keras import ops

from keras_micronets import _keras_private
from keras_micronets.layers.gradient_functions import gradient_function
from keras_micronets.layers.kernel import kernels

# Where float16 gradients begin, as Keras's loss scale does, before it is lowered.
FLOAT16_SCALE = 2.0**15


def kernel_gradients(
    model: keras.Model, x, y=None, sample_weight=None
) -> list[np.ndarray]:
    """Return the gradient of the loss with respect to each kernel, masked or not.

    The gradient is that with respect to the kernel that a layer computes with, so
    it tells what a weight would do that the mask removes. It is that of a training
    step: the compiled loss, with what layers add to it while they run, batch
    normalisation by the batch, dropout, fake quantisers that gradients pass
    straight through. What regularises the raw weights themselves is no part of it.
    Nothing is left behind: statistics, ranges, seeds and metrics stay as they are.

    It is compiled once for each model and shape of batch. It runs nothing
    between calls, and adds nothing to the compiled training step.

    Args:
        model: A compiled and promoted model.
        x: Batch of inputs: an array, a tensor or a structure of them.
        y: Batch of targets, likewise. Defaults to `None`.
        sample_weight: Array of shape `(batch,)`. Defaults to `None`.

    Returns:
        A list of float32 arrays, one a kernel in the order of `kernels(model)`.

    Raises:
        ValueError: If the model is not compiled, or has no kernel.

    Example:

    ```python
    model.compile("adam", "mse")
    keras_micronets.layers.promote(model)
    gradients = keras_micronets.layers.kernel_gradients(model, x[:128], y[:128])
    ```

    Reference: Evci et al. 2020, "Rigging the lottery: making all tickets winners",
    which grows weights where this gradient is largest.
    """
    _check(model)
    batch = keras.tree.map_structure(_as_tensor, (x, y, sample_weight))
    function = gradient_function(model)
    scale = FLOAT16_SCALE if _computes_in_float16(model) else 1.0
    while True:
        found = [_as_array(gradient) for gradient in function(batch, scale)]
        if scale == 1.0 or all(np.isfinite(gradient).all() for gradient in found):
            return [gradient / np.float32(scale) for gradient in found]
        scale = max(1.0, scale / 8)


def _check(model):
    if not model.compiled:
        raise ValueError(
            f"Expected a compiled model: its loss is what is derived. Received: "
            f"{model.name!r}, which is not compiled. Call `compile` with a loss."
        )
    if not kernels(model):
        raise ValueError(
            "Expected a promoted model, with kernels that have masks. Received: "
            f"{model.name!r}. Call `keras_micronets.layers.promote(model)` first."
        )


def _as_tensor(array):
    if array is None:
        return None
    if not ops.is_tensor(array):
        array = np.asarray(array)
        if np.issubdtype(array.dtype, np.floating):
            array = array.astype(keras.config.floatx())
    return ops.convert_to_tensor(array)


def _as_array(gradient):
    return np.array(ops.convert_to_numpy(gradient), "float32")


def _computes_in_float16(model):
    found = _keras_private.flatten_layers(model)
    return any(layer.compute_dtype == "float16" for layer in found)
