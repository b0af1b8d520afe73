"""Preparation of a model for pruning and quantisation, in place."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import keras

from keras_micronets import _keras_private
from keras_micronets._backend import distributed
from keras_micronets.layers.litert.capabilities import (
    LAYERS,
    is_composite,
    is_kernel_layer,
    plain_class,
)
from keras_micronets.layers.micro.micro_layer import MICRO_LAYERS, is_micro_layer
from keras_micronets.layers.micro.operations import become_micro_operation
from keras_micronets.layers.micro.precision import keep_precision
from keras_micronets.layers.placement import place_quantizers
from keras_micronets.layers.quantizers.observers import LearnedStepSize
from keras_micronets.layers.quantizers.scheme import QuantizationScheme, QuantizerSpec
from keras_micronets.layers.quantizers.shared_range import share_ranges
from keras_micronets.layers.side_by_side import members_of

__all__ = ["PreparationReport", "prepare", "prepare_averages"]

_PRUNABLE = ", ".join(cls.__name__ for cls, row in LAYERS.items() if row.kernels)


@dataclass(frozen=True)
class PreparationReport:
    """List what `prepare` changed and what it could not change.

    Attributes:
        prepared: Names of the layers that became prunable or got more quantisers.
        skipped: Names and classes of the layers with weights that cannot be pruned,
            with the reasons.
        floating: Names and classes of the operations that a file may compute in float,
            with the reasons.
        unfused: Names of the batch normalisations that an activation separates from
            the kernel before them.
    """

    prepared: tuple[str, ...]
    skipped: tuple[str, ...]
    floating: tuple[str, ...] = ()
    unfused: tuple[str, ...] = ()

    def warn(self) -> None:
        """Warn about unchanged layers: their number and five examples, by reason."""
        _warn(self.skipped, "cannot be pruned and are left unchanged")
        _warn(self.floating, "may stay in float")
        _warn(
            self.unfused,
            "normalise after an activation: each is one more operation in the file. "
            "Between the kernel and the activation they would be part of the kernel",
        )


def prepare(
    model: keras.Model, *, quantize: bool | QuantizationScheme = False
) -> PreparationReport:
    """Make the layers of a model prunable and, if wanted, quantisable, in place.

    Each layer gets the class of its micro layer, with a mask for each kernel. Names,
    weights, optimizer state and all references to the layers are kept. Predictions stay
    the same until a mask or a quantiser changes. Layers without a micro layer are left
    unchanged.

    Args:
        model: A built Keras model: sequential, functional or subclassed, nested
            models included.
        quantize: Boolean, whether to add fake quantisers, which are off; or a
            `QuantizationScheme` for them. Defaults to `False`.

    Returns:
        A `PreparationReport`.

    Raises:
        ValueError: If the model is not built, has no kernel to prune, or has
            quantisers of another scheme.

    Example:

    ```python
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2, name="head")])
    kmn.layers.prepare(model).prepared  # ("head",)
    ```
    """
    if not model.built:
        raise ValueError(
            "Expected a built model, since masks have the shapes of the kernels. "
            f"Received: {model.name!r}, which is not built. Call it on a batch, or "
            "give it a `keras.Input`."
        )
    layers = list(dict.fromkeys(_keras_private.flatten_layers(model)))
    kernel_layers = [layer for layer in layers if is_kernel_layer(layer)]
    wanted = {layer: QuantizerSpec() for layer in kernel_layers if _is_plain(layer)}
    if not wanted:
        raise ValueError(
            f"Expected a model with layers to prune ({_PRUNABLE}), not quantised by "
            f"Keras and without LoRA weights. Received: {model.name!r} with "
            f"{[layer.name for layer in layers[1:]] or 'no layers'}."
        )
    floating, unfused = (), ()
    if quantize:
        placement = place_quantizers(model, share_ranges=_shares_ranges(quantize))
        wanted.update(placement.quantizers)
        floating, unfused = placement.floating, placement.unfused
        # Also without a graph, `freeze` must be able to freeze their statistics.
        norms = [x for x in layers if plain_class(x) is keras.layers.BatchNormalization]
        wanted = {**dict.fromkeys(norms, QuantizerSpec()), **wanted}
    composites = [x for x in layers if is_composite(x) and _has_any(x, wanted)]
    wanted = {**dict.fromkeys(composites, QuantizerSpec()), **wanted}
    usable = {layer: spec for layer, spec in wanted.items() if _is_plain(layer)}
    scheme = quantize if isinstance(quantize, QuantizationScheme) else None
    _check_scheme(usable, scheme)
    operations = [one for one in usable if not isinstance(one, keras.Layer)]
    with distributed(model):
        prepared = [
            layer for layer, spec in usable.items() if _prepare(layer, spec, scheme)
        ]
    for graph in filter(_keras_private.is_functional, layers if operations else ()):
        _keras_private.list_layers(graph)
    keep_precision(model)
    if prepared:
        share_ranges(model, again=True)
        _forget_compiled_steps(model)
    if not prepared:  # an earlier call has reported it
        return PreparationReport((), ())
    names = tuple(layer.name for layer in prepared)
    return PreparationReport(names, _skipped(layers, usable), floating, unfused)


def prepare_averages(model: keras.Model, layers: Iterable[keras.Layer]) -> None:
    """Give normalisations of a model masks of the channels that they average, in place.

    Args:
        model: A built model.
        layers: Layers of the classes that have a subclass of `MicroAveraging`.
    """
    with distributed(model):
        changed = [_prepare(layer, QuantizerSpec(), None) for layer in layers]
    if any(changed):
        _forget_compiled_steps(model)


def _prepare(layer, quantizers, scheme):
    """Make one layer a micro layer; return whether anything changed."""
    if not isinstance(layer, keras.Layer):
        become_micro_operation(layer)
    elif not is_micro_layer(layer):
        layer.__class__ = MICRO_LAYERS[type(layer)]
        vars(layer).pop("quantize", None)  # Keras binds the plain class's method
    elif layer.quantizers | quantizers == layer.quantizers:
        return False
    if scheme is not None:
        layer.scheme = scheme
    layer.extend(quantizers)
    return True


def _shares_ranges(scheme):
    """Return whether tensors can share a range: learned steps are separate weights."""
    observer = scheme.observer if isinstance(scheme, QuantizationScheme) else None
    return not isinstance(observer, LearnedStepSize)


def _check_scheme(layers, scheme):
    """Raise an error rather than replace quantisers that may be trained."""
    for layer in layers:
        if scheme and getattr(layer, "quantizers", None) and layer.scheme != scheme:
            raise ValueError(
                f"Expected the scheme that the quantisers of {layer.name!r} already "
                f"have: {layer.scheme}. Received: {scheme}. To change it, prepare the "
                "model that `keras_micronets.strip(model)` returns."
            )


def _is_plain(layer):
    """Return whether Keras has neither quantised a layer nor given it LoRA weights."""
    quantized = getattr(layer, "quantization_mode", None) is not None
    return not (quantized or getattr(layer, "lora_enabled", False))


def _has_any(layer, others):
    return any(inner in others for inner in _keras_private.flatten_layers(layer)[1:])


def _skipped(layers, usable):
    """Return the names of layers with trainable matrices that have no mask."""
    masked = {id(kernel) for layer in usable for kernel in _kernel_variables(layer)}
    cells = {id(getattr(layer, "cell", None)) for layer in usable}
    return tuple(
        f"{layer.name} ({type(layer).__name__}): {_reason(layer)}"
        for layer in layers[1:]
        if layer not in usable
        and id(layer) not in cells
        and any(id(variable) not in masked for variable in _direct_matrices(layer))
    )


def _kernel_variables(layer):
    names = getattr(layer, "kernel_names", ())
    return [layer.kernel_variable(name) for name in names]


def _direct_matrices(layer):
    matrices = [v for v in layer.trainable_variables if len(v.shape) >= 2]
    inner = _keras_private.flatten_layers(layer)[1:]
    owned = {id(v) for child in inner for v in child.trainable_variables}
    return [v for v in matrices if id(v) not in owned]


def _reason(layer):
    if getattr(layer, "quantization_mode", None) is not None:
        return "Keras has quantised it"
    if getattr(layer, "lora_enabled", False):
        return "it has LoRA weights"
    return "it has no micro layer"


def _forget_compiled_steps(model):
    """Forget steps that were compiled without the new state."""
    for one in {model, *members_of(model)}:
        for name in ("train_function", "test_function", "predict_function"):
            if hasattr(one, name):
                setattr(one, name, None)


def _warn(names, reason):
    if names:
        examples = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        warnings.warn(f"{len(names)} layers {reason}: {examples}", stacklevel=3)
