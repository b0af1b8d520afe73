from collections import defaultdict
from dataclasses import dataclass

import keras

from keras_micronets import _keras_private
from keras_micronets.layers.activation_twins import PASS_THROUGH
from keras_micronets.layers.rectifiers import limit_of
from keras_micronets.layers.twin import FIXED_RANGES, FUSED_ACTIVATIONS
from keras_micronets.layers.twins import has_twin, is_kernel_layer, plain_class

# LiteRT takes one scale for their kernels, which a scale a channel does not fit.
_ONE_SCALE = (keras.layers.EinsumDense, keras.layers.Conv2DTranspose)


@dataclass(frozen=True)
class Placement:
    """Where a model's fake quantisers go.

    Attributes:
        quantizers: Dictionary from layer to the names of its quantisers.
        floating: Names of the operations that stay in float, with their classes.
    """

    quantizers: dict[keras.layers.Layer, tuple[str, ...]]
    floating: tuple[str, ...]


def place_quantizers(model: keras.Model, *, joins: bool = True) -> Placement:
    """Decide which tensors of a model get a fake quantiser.

    One quantiser a tensor: on the output of the layer that makes it, or, for
    input layers and operations that have no twin, at the inputs of those that
    read it. None stands inside a chain that LiteRT computes as one operation
    (kernel, batch normalisation, rectifier; addition, rectifier), and none after
    a layer that only moves values. A concatenation is one of those: what it reads has
    one range, and a quantiser before it where it has another, as behind a softmax.
    In a subclassed model there is no graph to read: there every layer with a kernel
    has its input and output quantised.

    Args:
        model: A built model. Nested functional models are walked.
        joins: Boolean, whether tensors can have one range; if not, concatenations
            have a range of their own. Defaults to `True`.

    Returns:
        A `Placement`.
    """
    quantizers, floating = defaultdict(tuple), []
    _place(model, quantizers, floating, joins=joins, is_top=True)
    return Placement(dict(quantizers), tuple(floating))


def _place(model, quantizers, floating, *, joins, is_top):
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
            _place(operation, quantizers, floating, joins=joins, is_top=False)
        elif not has_twin(operation):
            floating.append(f"{operation.name} ({type(operation).__name__})")
        else:
            names = quantizers[operation]
            names += _kernel_names(operation, readers[operation])
            names += _input_names(producers[operation], is_top)
            if joins and plain_class(operation) is keras.layers.Concatenate:
                names += _joined_names(operation, is_top)
            else:
                is_output = operation in outputs
                names += _output_names(operation, readers[operation], is_output)
            quantizers[operation] = names


def _place_everywhere(model, quantizers):
    for layer in _keras_private.flatten_layers(model):
        if is_kernel_layer(layer):
            names = ("kernel", "input_0", *_output_names(layer, [], is_output=True))
            quantizers[layer] = names


def _input_names(producers, is_top):
    return tuple(
        f"input_{position}"
        for position, producer in producers
        if (isinstance(producer, keras.layers.InputLayer) and is_top)
        or not (has_twin(producer) or isinstance(producer, _OTHERS_CARE))
    )


# An inner model's inputs are quantised where the outer model makes them.
_OTHERS_CARE = (keras.Model, keras.layers.InputLayer)


def _kernel_names(operation, readers):
    if not is_kernel_layer(operation):
        return ()
    normalized = len(readers) == 1 and _fuses(operation, readers[0])
    is_dense = plain_class(operation) is keras.layers.Dense
    by_unit = normalized and is_dense and not _is_rectifier(readers[0])
    return ("kernel", "channels") if by_unit else ("kernel",)


def _joined_names(layer, is_top):
    """Quantise again what has another range than what it is joined with."""
    names = ()
    for tensors in _keras_private.calls(layer):
        ranges = [_set_range(tensor, is_top) for tensor in tensors]
        if len(set(ranges)) > 1:
            found = enumerate(ranges)
            names += tuple(f"input_{i}" for i, fixed in found if fixed is not None)
    return names


def _set_range(tensor, is_top):
    """Return the range that a tensor has whatever it is joined with, or `None`."""
    operation, inputs = _keras_private.producer(tensor)
    kind = plain_class(operation)
    if kind in PASS_THROUGH or kind is keras.layers.Concatenate:
        ranges = {_set_range(one, is_top) for one in inputs}
        return ranges.pop() if len(ranges) == 1 else None
    is_input = isinstance(operation, keras.layers.InputLayer)
    if isinstance(operation, keras.Model) or (is_input and not is_top):
        return object()  # that of another graph, unlike any other
    if not has_twin(operation):
        return None  # quantised where it is read
    is_softmax = kind is keras.layers.Softmax
    activation = keras.activations.softmax if is_softmax else None
    return FIXED_RANGES.get(getattr(operation, "activation", activation))


def _output_names(operation, readers, is_output):
    if plain_class(operation) in PASS_THROUGH:
        return ()
    if readers and not is_output and _fuses_all(operation, readers):
        return ()
    activation = getattr(operation, "activation", None)
    apart = is_kernel_layer(operation) and activation not in FUSED_ACTIVATIONS
    names = ("preactivation",) if apart else ()
    names += ("gate",) if activation is keras.activations.silu else ()
    return (*names, "output")


def _fuses_all(operation, readers):
    """The converter makes one of several rectifiers that read the same tensor."""
    alike = len(set(map(limit_of, readers))) == 1 and all(map(_is_rectifier, readers))
    fused = all(_fuses(operation, reader) for reader in readers)
    return fused and (alike or len(readers) == 1)


def _fuses(operation, reader):
    """Whether LiteRT computes the reader within the operation before it."""
    before, after = plain_class(operation), plain_class(reader)
    linear = getattr(operation, "activation", None) in (None, keras.activations.linear)
    if after is keras.layers.BatchNormalization:
        return is_kernel_layer(operation) and linear and before not in _ONE_SCALE
    fusible = (keras.layers.Add, keras.layers.BatchNormalization)
    return _is_rectifier(reader) and (
        (is_kernel_layer(operation) and linear) or before in fusible
    )


def _is_rectifier(layer):
    return has_twin(layer) and limit_of(layer) is not None
