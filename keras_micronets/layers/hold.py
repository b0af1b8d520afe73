import keras

from keras_micronets import _keras_private
from keras_micronets.layers.batch_normalization_twin import MicroBatchNormalization
from keras_micronets.layers.state import Quantizer


def hold(model: keras.Model, *, ranges: bool = False, statistics: bool = False) -> None:
    """Say what training leaves as it is, near its end, so that weights settle.

    The training step is compiled anew if that changes anything: what is held costs
    nothing then, and what is not held costs what it did. Nothing of this is saved.

    Args:
        model: A model that `layers.promote` was called on, compiled or not.
        ranges: Boolean, whether the ranges of the fake quantisers stay. Defaults to
            `False`.
        statistics: Boolean, whether batch normalisation computes with its moving
            statistics, and leaves them. Defaults to `False`.

    Example:

    ```python
    keras_micronets.layers.hold(model, ranges=True, statistics=True)
    model.fit(x, y, epochs=2)
    ```
    """
    changed = False
    for layer in _keras_private.flatten_layers(model):
        held = _wanted(layer, ranges, statistics)
        if held is not None and layer.held != held:
            layer.held = held
            changed = True
    if changed and getattr(model, "train_function", None) is not None:
        model.make_train_function(force=True)


def _wanted(layer, ranges, statistics):
    """Whether a layer is to be held; `None` for those that cannot be."""
    if isinstance(layer, Quantizer):
        return ranges
    return statistics if isinstance(layer, MicroBatchNormalization) else None
