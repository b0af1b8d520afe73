"""Switches for all fake quantisers of a model."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras
from keras import ops

from keras_micronets import _keras_private
from keras_micronets.layers.quantizers.kernel import LearnedKernelQuantizer
from keras_micronets.layers.quantizers.shared_range import share_ranges
from keras_micronets.layers.state import Quantizer

__all__ = [
    "constant_quantizers",
    "freeze",
    "quantized_share",
    "quantizers",
    "set_quantizers",
]


def quantizers(model: keras.Model) -> list[Quantizer]:
    """Return the fake quantisers of a prepared model, each once."""
    share_ranges(model)  # the model may just have been loaded
    layers = _keras_private.flatten_layers(model)
    return list(dict.fromkeys(x for x in layers if isinstance(x, Quantizer)))


def set_quantizers(model: keras.Model, active: bool) -> None:
    """Switch all fake quantisers of a prepared model on or off.

    When they are first switched on, step sizes that will be learned are initialised
    from the present kernels.

    Args:
        model: A prepared model.
        active: Boolean, `True` to switch them on.
    """
    for quantizer in quantizers(model):
        quantizer.active.assign(active)
    if active:
        for layer in _keras_private.flatten_layers(model):
            for name in getattr(layer, "kernel_names", ()):
                _initialize_step(layer, name)


def _initialize_step(layer, name):
    quantizer = getattr(layer, f"{name}_quantizer", None)
    if isinstance(quantizer, LearnedKernelQuantizer):
        quantizer.initialize_step(layer.to_litert(name, layer.masked_kernel(name)))


def quantized_share(model: keras.Model) -> float:
    """Return the fraction of a model's fake quantisers that are on; 0 without any."""
    states = [bool(ops.convert_to_numpy(q.active)) for q in quantizers(model)]
    return sum(states) / len(states) if states else 0.0


@contextmanager
def constant_quantizers(model: keras.Model, *, keep: bool = True) -> Iterator[None]:
    """Make the quantisers constant for programs traced inside the `with` block.

    Args:
        model: A prepared model.
        keep: Boolean, whether they keep their present states; `False` to switch all
            off. Defaults to `True`.
    """
    every = quantizers(model)
    for quantizer in every:
        quantizer.make_constant(keep=keep)
    try:
        yield
    finally:
        for quantizer in every:
            quantizer.make_variable()


def freeze(
    model: keras.Model, *, observers: bool = False, statistics: bool = False
) -> None:
    """Freeze ranges and batch statistics, so that weights settle near the end of a run.

    The choice is a constant of the training step, which is compiled again if it
    changes. It is not saved.

    Args:
        model: A model that `layers.prepare` was called on, compiled or not.
        observers: Boolean, whether to freeze the ranges of the fake quantisers; `False`
            lets them move again. Defaults to `False`.
        statistics: Boolean, whether batch normalisation uses its moving statistics
            without updating them. Defaults to `False`.

    Example:

    ```python
    kmn.layers.prepare(model, quantize=True)
    kmn.layers.freeze(model, observers=True, statistics=True)
    model.fit(x, y, epochs=2)
    ```
    """
    changed = False
    for layer in _keras_private.flatten_layers(model):
        frozen = _frozen(layer, observers, statistics)
        if frozen is not None and layer.frozen != frozen:
            layer.frozen = frozen
            changed = True
    if changed and getattr(model, "train_function", None) is not None:
        model.make_train_function(force=True)


def _frozen(layer, observers, statistics):
    """Return whether a layer should be frozen; `None` if it cannot be."""
    if isinstance(layer, Quantizer):
        return observers
    return statistics if hasattr(layer, "frozen") else None  # batch normalisation
