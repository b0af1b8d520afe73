from collections.abc import Iterator
from contextlib import contextmanager

import keras
from keras import ops

from keras_micronets import _keras_private
from keras_micronets.layers.learned_kernel_quantizer import LearnedKernelQuantizer
from keras_micronets.layers.state import Quantizer


def quantizers(model: keras.Model) -> list[Quantizer]:
    """Return the fake quantisers of a promoted model, each once."""
    layers = _keras_private.flatten_layers(model)
    return list(dict.fromkeys(x for x in layers if isinstance(x, Quantizer)))


def set_quantizers(model: keras.Model, active: bool) -> None:
    """Switch all fake quantisers of a promoted model on or off.

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
        quantizer.begin(layer.to_device(name, layer.masked(name)))


def quantized_share(model: keras.Model) -> float:
    """Return the share of a model's fake quantisers that are on; 0 without any."""
    states = [bool(ops.convert_to_numpy(q.active)) for q in quantizers(model)]
    return sum(states) / len(states) if states else 0.0


@contextmanager
def freeze_quantizers(model: keras.Model, *, keep: bool = True) -> Iterator[None]:
    """Make the quantisers constant for what is run or traced inside the block.

    Args:
        model: A promoted model.
        keep: Boolean, whether they keep their present state; otherwise they are
            all off. Defaults to `True`.
    """
    found = quantizers(model)
    for quantizer in found:
        quantizer.freeze(keep=keep)
    try:
        yield
    finally:
        for quantizer in found:
            quantizer.unfreeze()
