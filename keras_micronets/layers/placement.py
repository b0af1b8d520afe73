from collections import defaultdict
from dataclasses import dataclass

import keras

from keras_micronets import _keras_private
from keras_micronets.layers.activation_twins import PASS_THROUGH
from keras_micronets.layers.floating import reason_for_float
from keras_micronets.layers.twin import FUSED_ACTIVATIONS
from keras_micronets.layers.twins import has_twin, is_kernel_layer, plain_class

# LiteRT takes one scale for their kernels, which a scale a channel does not fit.
_ONE_SCALE = (keras.layers.EinsumDense, keras.layers.Conv2DTranspose)
_RECTIFIERS = (keras.activations.relu, keras.activations.relu6)
_ACTIVATIONS = (keras.layers.Activation, keras.layers.LeakyReLU, keras.layers.ReLU)


@dataclass(frozen=True)
class Placement:
    """Where a model's fake quantisers go.

    Attributes:
        quantizers: Dictionary from layer to the names of its quantisers.
        floating: Names of the operations that may stay in float, with their classes
            and the reasons.
        unfused: Names of the batch normalisations that an activation keeps apart from
            the kernel before them.
    """

    quantizers: dict[keras.layers.Layer, tuple[str, ...]]
    floating: tuple[str, ...]
    unfused: tuple[str, ...] = ()


def place_quantizers(model: keras.Model) -> Placement:
    """Decide which tensors of a model get a fake quantiser.

    One quantiser a tensor: on the output of the layer that makes it, or, for
    input layers and operations that have no twin, at the inputs of those that
    read it. None stands inside a chain that LiteRT computes as one operation
    (kernel, batch normalisation, rectifier; addition, rectifier), and none after
    a layer that only moves values. In a subclassed model there is no graph to
    read: there every layer with a kernel has its input and output quantised.

    Args:
        model: A built model. Nested functional models are walked.

    Returns:
        A `Placement`.
    """
    quantizers, floating, unfused = defaultdict(tuple), [], []
    _place(model, quantizers, floating, unfused, is_raw=True)
    return Placement(dict(quantizers), tuple(floating), tuple(unfused))


def _place(model, quantizers, floating, unfused, is_raw):
    if not _keras_private.is_functional(model):
        return _place_everywhere(model, quantizers)
    readers, producers = defaultdict(list), defaultdict(list)
    for producer, reader, position in _keras_private.edges(model):
        readers[producer].append(reader)
        producers[reader].append((position, producer))
    outputs = _keras_private.output_operations(model)
    for operation in {**readers, **producers}:
        if isinstance(operation, keras.layers.InputLayer):
            continue
        if isinstance(operation, keras.Model):
            raw = bool(_input_names(producers[operation], is_raw))
            _place(operation, quantizers, floating, unfused, is_raw=raw)
            continue
        if reason := reason_for_float(operation):
            kind = type(operation).__name__
            floating.append(f"{operation.name} ({kind}): {reason}")
        if has_twin(operation):
            names = quantizers[operation]
            names += _kernel_names(operation, readers[operation])
            names += _input_names(producers[operation], is_raw)
            names += _output_names(operation, readers[operation], operation in outputs)
            quantizers[operation] = names
            if _is_kept_apart(operation, producers):
                unfused.append(operation.name)
        elif isinstance(operation, keras.Layer):  # it may hold layers with kernels
            _place_everywhere(operation, quantizers)


def _place_everywhere(model, quantizers):
    for layer in _keras_private.flatten_layers(model):
        if is_kernel_layer(layer):
            names = ("kernel", "input_0", *_output_names(layer, [], is_output=True))
            quantizers[layer] = names


def _input_names(producers, is_raw):
    return tuple(
        f"input_{position}"
        for position, producer in producers
        if (isinstance(producer, keras.layers.InputLayer) and is_raw)
        or not (has_twin(producer) or isinstance(producer, _OTHERS_CARE))
    )


# An inner model's inputs are quantised where the outer model makes them, if it does.
_OTHERS_CARE = (keras.Model, keras.layers.InputLayer)


def _kernel_names(operation, readers):
    if not is_kernel_layer(operation):
        return ()
    normalized = len(readers) == 1 and _fuses(operation, readers[0])
    is_dense = plain_class(operation) is keras.layers.Dense
    by_unit = normalized and is_dense and not _is_rectifier(readers[0])
    return ("kernel", "channels") if by_unit else ("kernel",)


def _output_names(operation, readers, is_output):
    if plain_class(operation) in PASS_THROUGH:
        return ()
    fused = len(readers) == 1 and not is_output and _fuses(operation, readers[0])
    if fused:
        return ()
    activation = getattr(operation, "activation", None)
    apart = is_kernel_layer(operation) and activation not in FUSED_ACTIVATIONS
    names = ("preactivation",) if apart else ()
    names += ("gate",) if activation is keras.activations.silu else ()
    return (*names, "output")


def _fuses(operation, reader):
    """Whether LiteRT computes the reader within the operation before it."""
    before, after = plain_class(operation), plain_class(reader)
    linear = _is_linear(operation)
    if after is keras.layers.BatchNormalization:
        return is_kernel_layer(operation) and linear and before not in _ONE_SCALE
    fusible = (keras.layers.Add, keras.layers.BatchNormalization)
    return _is_rectifier(reader) and (
        (is_kernel_layer(operation) and linear) or before in fusible
    )


def _is_linear(layer):
    return getattr(layer, "activation", None) in (None, keras.activations.linear)


def _is_kept_apart(operation, producers):
    """Whether a normalisation would be part of a kernel but for an activation."""
    if plain_class(operation) is not keras.layers.BatchNormalization:
        return False
    _, before = producers[operation][0]
    if plain_class(before) in _ACTIVATIONS:
        return is_kernel_layer(producers[before][0][1])
    return is_kernel_layer(before) and not _is_linear(before)


def _is_rectifier(layer):
    kind = plain_class(layer)
    if kind is keras.layers.Activation:
        return layer.activation in _RECTIFIERS
    if kind is keras.layers.ReLU:
        return (layer.negative_slope, layer.threshold) == (0, 0) and (
            layer.max_value in (None, 6)
        )
    return False
