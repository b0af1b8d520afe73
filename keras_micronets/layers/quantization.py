from collections.abc import Iterator
from contextlib import contextmanager

import keras
from keras import ops

from keras_micronets import _keras_private
from keras_micronets.layers.micro.normalization import MicroBatchNormalization
from keras_micronets.layers.quantizers.learned import LearnedKernelQuantizer
from keras_micronets.layers.state import Quantizer


def quantizers(model: keras.Model) -> list[Quantizer]:
    """Return the fake quantisers of a prepared model, each once."""
    layers = _keras_private.flatten_layers(model)
    return list(dict.fromkeys(x for x in layers if isinstance(x, Quantizer)))


def set_quantizers(model: keras.Model, active: bool) -> None:
    """Switch all fake quantisers of a prepared model on or off.

    Steps that will be learned begin at the kernels' present ranges, once.
    """
    for quantizer in quantizers(model):
        quantizer.active.assign(active)
    if active:
        for layer in _keras_private.flatten_layers(model):
            for name in getattr(layer, "kernel_names", ()):
                _begin(layer, name)


def _begin(layer, name):
    quantizer = getattr(layer, f"{name}_quantizer", None)
    if isinstance(quantizer, LearnedKernelQuantizer):
        quantizer.begin(layer.to_device(name, layer.masked_kernel(name)))


def quantized_share(model: keras.Model) -> float:
    """Return the share of a model's fake quantisers that are on; 0 without any."""
    states = [bool(ops.convert_to_numpy(q.active)) for q in quantizers(model)]
    return sum(states) / len(states) if states else 0.0


@contextmanager
def constant_quantizers(model: keras.Model, *, keep: bool = True) -> Iterator[None]:
    """Make the quantisers constant for what is run or traced inside the block.

    Args:
        model: A prepared model.
        keep: Boolean, whether they keep their present state; otherwise they are
            all off. Defaults to `True`.
    """
    found = quantizers(model)
    for quantizer in found:
        quantizer.make_constant(keep=keep)
    try:
        yield
    finally:
        for quantizer in found:
            quantizer.make_variable()


def freeze(
    model: keras.Model, *, observers: bool = False, statistics: bool = False
) -> None:
    """Say what training leaves as it is, near its end, so that weights settle.

    The training step is compiled anew if that changes anything: what is held costs
    nothing then, and what is not held costs what it did. Nothing of this is saved.

    Args:
        model: A model that `layers.prepare` was called on, compiled or not.
        observers: Boolean, whether the ranges of the fake quantisers stay. Defaults to
            `False`.
        statistics: Boolean, whether batch normalisation computes with its moving
            statistics, and leaves them. Defaults to `False`.

    Example:

    ```python
    keras_micronets.layers.freeze(model, observers=True, statistics=True)
    model.fit(x, y, epochs=2)
    ```
    """
    changed = False
    for layer in _keras_private.flatten_layers(model):
        held = _wanted(layer, observers, statistics)
        if held is not None and layer.frozen != held:
            layer.frozen = held
            changed = True
    if changed and getattr(model, "train_function", None) is not None:
        model.make_train_function(force=True)


def _wanted(layer, observers, statistics):
    """Whether a layer is to be held; `None` for those that cannot be."""
    if isinstance(layer, Quantizer):
        return observers
    return statistics if isinstance(layer, MicroBatchNormalization) else None
