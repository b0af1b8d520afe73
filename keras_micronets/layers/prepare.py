import warnings
from dataclasses import dataclass

import keras

from keras_micronets import _keras_private
from keras_micronets.layers.litert.capabilities import (
    has_micro_layer,
    is_kernel_layer,
    plain_class,
)
from keras_micronets.layers.micro.micro_layer import MICRO_LAYERS, is_micro_layer
from keras_micronets.layers.micro.operations import prepare_operations
from keras_micronets.layers.placement import place_quantizers
from keras_micronets.layers.quantizers.observers import LearnedStepSize
from keras_micronets.layers.quantizers.scheme import QuantizationScheme, QuantizerSpec
from keras_micronets.layers.quantizers.shared_range import share_all_ranges


@dataclass(frozen=True)
class PreparationReport:
    """What `prepare` did.

    Attributes:
        prepared: Names of the layers that became twins or got more quantisers.
        skipped: Names and classes of the layers with kernels that have no twin.
        floating: Names and classes of the operations that may stay in float, with
            the reasons.
        unfused: Names of the batch normalisations that an activation keeps apart
            from the kernel before them.
    """

    prepared: tuple[str, ...]
    skipped: tuple[str, ...]
    floating: tuple[str, ...] = ()
    unfused: tuple[str, ...] = ()

    def warn(self) -> None:
        """Say once what was left alone, with a count and five examples."""
        _warn(self.skipped, "cannot be pruned and are left as they are")
        _warn(self.floating, "may stay in float")
        _warn(
            self.unfused,
            "normalise behind an activation: on the device each is one more operation, "
            "which it would not be between the kernel and the activation",
        )


def prepare(
    model: keras.Model, *, quantize: bool | QuantizationScheme = False
) -> PreparationReport:
    """Turn the layers of a model into their twins, in place.

    Layer names, weights, optimizer state and every reference to the layers
    survive. The model predicts exactly as before until a mask or a quantiser
    changes. Layers that have no twin are left alone.

    Args:
        model: A built Keras model: sequential, functional or subclassed, nested
            models included.
        quantize: Boolean, whether to add fake quantisers as well (inactive ones); or
            a `QuantizationScheme` that says which. Defaults to `False`.

    Returns:
        A `PreparationReport` that names what was prepared and what was skipped.

    Raises:
        ValueError: If the model is not built, has no kernel to prune, or has
            quantisers of another scheme.

    Example:

    ```python
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])
    keras_micronets.layers.prepare(model).prepared  # ("dense",)
    ```
    """
    if not model.built:
        raise ValueError(
            "Expected a built model: preparation gives each kernel a mask of its "
            f"shape. Received: {model.name!r}, which is not built. Call it on a "
            "batch, or give it a `keras.Input`."
        )
    layers = list(dict.fromkeys(_keras_private.flatten_layers(model)))
    kernel_layers = [layer for layer in layers if is_kernel_layer(layer)]
    wanted = {layer: QuantizerSpec() for layer in kernel_layers if _is_plain(layer)}
    if not wanted:
        raise ValueError(
            "Expected a model with layers to prune (Dense, EinsumDense, Conv1D/2D, "
            "DepthwiseConv1D/2D, SeparableConv1D/2D, Conv2DTranspose), not quantised "
            f"by Keras and without LoRA weights. Received: {model.name!r} with "
            f"{_names(layers[1:]) or 'no layers'}."
        )
    floating, unfused = (), ()
    if quantize:
        placement = place_quantizers(model, share_ranges=_shares_ranges(quantize))
        wanted.update(placement.quantizers)
        floating, unfused = placement.floating, placement.unfused
        # Where no graph says so, their statistics can be held all the same.
        norms = [x for x in layers if plain_class(x) is keras.layers.BatchNormalization]
        wanted = {**dict.fromkeys(norms, QuantizerSpec()), **wanted}
    usable = {layer: spec for layer, spec in wanted.items() if _is_plain(layer)}
    scheme = quantize if isinstance(quantize, QuantizationScheme) else None
    _check_scheme(usable, scheme)
    prepared = [
        layer for layer, spec in usable.items() if _prepare(layer, spec, scheme)
    ]
    changed = quantize and prepare_operations(model)
    if prepared or changed:
        share_all_ranges(layers)
        _forget_compiled_steps(model)
    skipped = [layer for layer in layers[1:] if _is_foreign(layer, usable)]
    if not prepared:  # said before
        return PreparationReport((), ())
    return PreparationReport(
        _names(prepared), _names(skipped, classes=True), floating, unfused
    )


def _prepare(layer, quantizers, scheme):
    """Make one layer a twin; return whether anything changed."""
    if not is_micro_layer(layer):
        layer.__class__ = MICRO_LAYERS[type(layer)]
    elif layer.quantizers | quantizers == layer.quantizers:
        return False
    if scheme is not None:
        layer.scheme = scheme
    layer.extend(quantizers)
    return True


def _shares_ranges(scheme):
    """Steps that are learned are trained each for itself."""
    ranges = scheme.observer if isinstance(scheme, QuantizationScheme) else None
    return not isinstance(ranges, LearnedStepSize)


def _check_scheme(layers, scheme):
    """Quantisers that are there were trained; they are not exchanged unasked."""
    for layer in layers:
        if scheme and getattr(layer, "quantizers", None) and layer.scheme != scheme:
            raise ValueError(
                f"Expected the scheme that the quantisers of {layer.name!r} already "
                f"have: {layer.scheme}. Received: {scheme}. To begin anew, prepare "
                "what `keras_micronets.strip(model)` returns."
            )


def _is_plain(layer):
    """Layers that Keras itself has quantised, or given LoRA weights, are left alone."""
    quantized = getattr(layer, "quantization_mode", None) is not None
    return not (quantized or getattr(layer, "lora_enabled", False))


def _is_foreign(layer, usable):
    matrices = [v for v in layer.trainable_variables if len(v.shape) >= 2]
    inner = _keras_private.flatten_layers(layer)[1:]
    owned = {id(v) for child in inner for v in child.trainable_variables}
    own = [v for v in matrices if id(v) not in owned]
    return bool(own) and (layer not in usable or not has_micro_layer(layer))


def _forget_compiled_steps(model):
    """Compiled before the preparation, they would not read the new state."""
    for name in ("train_function", "test_function", "predict_function"):
        if hasattr(model, name):
            setattr(model, name, None)


def _names(layers, classes=False):
    return tuple(
        f"{layer.name} ({type(layer).__name__})" if classes else layer.name
        for layer in layers
    )


def _warn(names, what):
    if names:
        examples = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        warnings.warn(f"{len(names)} layers {what}: {examples}", stacklevel=3)
