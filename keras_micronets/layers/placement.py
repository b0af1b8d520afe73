"""Which layers of a graph LiteRT computes as one operation."""

from collections import defaultdict
from dataclasses import dataclass

import keras

from keras_micronets import _keras_private
from keras_micronets.layers.litert.capabilities import limit_of
from keras_micronets.layers.micro.activations import PASS_THROUGH
from keras_micronets.layers.micro.micro_layer import FIXED_RANGES, FUSED_ACTIVATIONS
from keras_micronets.layers.micro.operations import MICRO_OPERATIONS
from keras_micronets.layers.micro.registry import (
    has_micro_layer,
    is_kernel_layer,
    plain_class,
)
from keras_micronets.layers.quantizers.scheme import QuantizerSpec

# Those of which the converter makes integer operations, if what they read and put out
# is quantised (read in files of TensorFlow 2.21).
INTEGER_ACTIVATIONS = (
    None,
    keras.activations.exponential,
    keras.activations.gelu,
    keras.activations.hard_silu,
    keras.activations.hard_tanh,
    keras.activations.leaky_relu,
    keras.activations.linear,
    keras.activations.log_softmax,
    keras.activations.relu,
    keras.activations.relu6,
    keras.activations.sigmoid,
    keras.activations.silu,
    keras.activations.soft_shrink,
    keras.activations.softmax,
    keras.activations.tanh,
    keras.activations.tanh_shrink,
)


def reason_for_float(operation: keras.Operation) -> str | None:
    """Return why a file computes an operation in float; `None` if it does not.

    Args:
        operation: An operation of a functional model, prepared or not.
    """
    if not has_micro_layer(operation):
        return "no quantised twin"
    if plain_class(operation) is keras.layers.ReLU:
        bends = bool(operation.negative_slope or operation.threshold)
        cuts = operation.max_value is not None
        rectifies = operation.max_value == 6 and not bends
        return None if rectifies or not cuts else "LiteRT has no integer kernel for it"
    activation = getattr(operation, "activation", None)
    if activation in INTEGER_ACTIVATIONS:
        return None
    return f"LiteRT has no integer {getattr(activation, '__name__', activation)}"


# LiteRT takes one scale for their kernels, which a scale a channel does not fit.
_ONE_SCALE = (keras.layers.EinsumDense, keras.layers.Conv2DTranspose)
_TAKE_RECTIFIERS = (
    keras.layers.Add,
    keras.layers.BatchNormalization,
    keras.layers.Multiply,
    keras.layers.Subtract,
    *MICRO_OPERATIONS,
)
_ACTIVATIONS = (keras.layers.Activation, keras.layers.LeakyReLU, keras.layers.ReLU)


def is_fused(operation, readers: list, is_output: bool) -> bool:
    """Return whether an operation is computed together with what reads it.

    That is one operation, or several rectifiers that are alike: the converter makes
    one of them.

    Args:
        operation: An operation of a graph.
        readers: List of the operations that read it.
        is_output: Boolean, whether the model puts it out.
    """
    if is_output or not readers:
        return False
    alike = all(map(is_rectifier, readers)) and len(set(map(limit_of, readers))) == 1
    return (len(readers) == 1 or alike) and all(fuses(operation, x) for x in readers)


def fuses(operation, reader) -> bool:
    """Return whether LiteRT computes the reader within the operation before it."""
    before, after = plain_class(operation), plain_class(reader)
    is_kernel = is_kernel_layer(operation) and _is_linear(operation)
    if after is keras.layers.BatchNormalization:
        return is_kernel and before not in _ONE_SCALE
    return is_rectifier(reader) and (is_kernel or before in _TAKE_RECTIFIERS)


def is_rectifier(layer) -> bool:
    """Return whether a layer is a ReLU or ReLU6, which others take along."""
    return has_micro_layer(layer) and limit_of(layer) is not None


def is_kept_apart(operation, producers: dict) -> bool:
    """Return whether a normalisation would be part of a kernel but for an activation.

    Args:
        operation: An operation of a graph.
        producers: Dictionary from operation to `(position, producer)` pairs.
    """
    if plain_class(operation) is not keras.layers.BatchNormalization:
        return False
    _, before = producers[operation][0]
    if plain_class(before) in _ACTIVATIONS:
        return is_kernel_layer(producers[before][0][1])
    return is_kernel_layer(before) and not _is_linear(before)


def _is_linear(layer):
    return getattr(layer, "activation", None) in (None, keras.activations.linear)


# Besides arithmetic, classes of `keras.ops` that LiteRT has in integers (2.3, each
# tried). Its division of two tensors is left out: near zero it is far off.
_IN_INTEGERS = (
    "Absolute",
    "Exp",
    "ExpandDims",
    "Gelu",
    "HardSilu",
    "LeakyRelu",
    "Log",
    "Mean",
    "Relu",
    "Relu6",
    "Reshape",
    "Rsqrt",
    "Sigmoid",
    "Silu",
    "Softmax",
    "Sqrt",
    "Squeeze",
    "Sum",
    "Tanh",
    "Transpose",
)


def is_in_integers(operation, producers, readers, *, is_raw=True) -> bool:
    """Return whether a file has integers for an operation that has no layer.

    It has if all that the operation reads is rounded, and all that reads it rounds it.

    Args:
        operation: A `keras.Operation`, no layer.
        producers: List of the operations that make what it reads.
        readers: List of the operations that read it; empty if it is an output.
        is_raw: Boolean, whether nobody rounds what its graph reads, as an outer model
            does for an inner one. Defaults to `True`.
    """
    inner = [
        x for x in producers if is_raw or not isinstance(x, keras.layers.InputLayer)
    ]
    rounded = all(map(_rounds, inner)) and all(map(has_micro_layer, readers))
    return bool(readers) and rounded and _has_integers(operation)


def _rounds(producer):
    if _keras_private.is_functional(producer):
        return all(map(_rounds, _keras_private.output_operations(producer)))
    return has_micro_layer(producer)


def _has_integers(operation):
    kind = plain_class(operation)
    if kind not in MICRO_OPERATIONS:
        return kind.__module__.startswith("keras.") and kind.__name__ in _IN_INTEGERS
    return "Divide" not in kind.__name__ or not any(
        isinstance(divisor, keras.KerasTensor)
        for _, divisor in _keras_private.arguments(operation)
    )


@dataclass(frozen=True)
class Placement:
    """Where a model's fake quantisers go.

    Attributes:
        quantizers: Dictionary from layer to the `QuantizerSpec` of its quantisers.
        floating: Names of the operations that may stay in float, with their classes
            and the reasons. Arithmetic between rounded tensors does not.
        unfused: Names of the batch normalisations that an activation keeps apart from
            the kernel before them.
    """

    quantizers: dict[keras.layers.Layer, QuantizerSpec]
    floating: tuple[str, ...]
    unfused: tuple[str, ...] = ()


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
    placer = _Placer(joins)
    placer.place(model, is_raw=True)
    specs = {x: QuantizerSpec.from_names(n) for x, n in placer.quantizers.items()}
    return Placement(specs, tuple(placer.floating), tuple(placer.unfused))


class _Placer:
    """Walks a model's graphs and collects what a `Placement` holds."""

    def __init__(self, joins):
        self.joins = joins
        self.quantizers, self.floating, self.unfused = defaultdict(tuple), [], []

    def place(self, model, is_raw):
        """Place the quantisers of a model; `is_raw` if nobody rounds its inputs."""
        if not _keras_private.is_functional(model):
            return self._place_everywhere(model)
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
                self.place(operation, raw)
                continue
            self._tell(operation, readers, producers, outputs, is_raw)
            if has_micro_layer(operation):
                self._place_at(operation, readers, producers, outputs, is_raw)
            elif isinstance(operation, keras.Layer):  # it may hold ones with kernels
                self._place_everywhere(operation)

    def _place_everywhere(self, model):
        for layer in _keras_private.flatten_layers(model):
            if is_kernel_layer(layer):
                names = ("kernel", "input_0", *_output_names(layer, [], is_output=True))
                self.quantizers[layer] = names

    def _place_at(self, operation, readers, producers, outputs, is_raw):
        unrounded = [
            (position, producer)
            for position, producer in producers[operation]
            if not is_fused(producer, readers[producer], producer in outputs)
        ]
        names = _kernel_names(operation, readers[operation])
        names += _input_names(unrounded, is_raw)
        if self.joins and plain_class(operation) is keras.layers.Concatenate:
            names += _joined_names(operation, is_raw)
        else:
            is_output = operation in outputs
            names += _output_names(operation, readers[operation], is_output)
        self.quantizers[operation] += names

    def _tell(self, operation, readers, producers, outputs, is_raw):
        """Note what the user should know of an operation."""
        made_by = [producer for _, producer in producers[operation]]
        read_by = [] if operation in outputs else readers[operation]
        reason = reason_for_float(operation)
        if reason and not is_in_integers(operation, made_by, read_by, is_raw=is_raw):
            kind = type(operation).__name__
            self.floating.append(f"{operation.name} ({kind}): {reason}")
        if is_kept_apart(operation, producers):
            self.unfused.append(operation.name)


def _input_names(producers, is_raw):
    return tuple(
        f"input_{position}"
        for position, producer in producers
        if (isinstance(producer, keras.layers.InputLayer) and is_raw)
        or not (has_micro_layer(producer) or isinstance(producer, _OTHERS_CARE))
    )


# An inner model's inputs are quantised where the outer model makes them, if it does.
_OTHERS_CARE = (keras.Model, keras.layers.InputLayer)


def _kernel_names(operation, readers):
    if not is_kernel_layer(operation):
        return ()
    normalized = len(readers) == 1 and fuses(operation, readers[0])
    is_dense = plain_class(operation) is keras.layers.Dense
    by_unit = normalized and is_dense and not is_rectifier(readers[0])
    return ("kernel", "channels") if by_unit else ("kernel",)


def _joined_names(layer, is_raw):
    """Quantise again what has another range than what it is joined with."""
    names = ()
    for tensors in _keras_private.calls(layer):
        ranges = [_set_range(tensor, is_raw) for tensor in tensors]
        if len(set(ranges)) > 1:
            found = enumerate(ranges)
            names += tuple(f"input_{i}" for i, fixed in found if fixed is not None)
    return names


def _set_range(tensor, is_raw):
    """Return the range that a tensor has whatever it is joined with, or `None`."""
    operation, inputs = _keras_private.producer(tensor)
    kind = plain_class(operation)
    if kind in PASS_THROUGH or kind is keras.layers.Concatenate:
        ranges = {_set_range(one, is_raw) for one in inputs}
        return ranges.pop() if len(ranges) == 1 else None
    is_input = isinstance(operation, keras.layers.InputLayer)
    if isinstance(operation, keras.Model) or (is_input and not is_raw):
        return object()  # that of another graph, unlike any other
    if not has_micro_layer(operation):
        return None  # quantised where it is read
    is_softmax = kind is keras.layers.Softmax
    activation = keras.activations.softmax if is_softmax else None
    return FIXED_RANGES.get(getattr(operation, "activation", activation))


def _output_names(operation, readers, is_output):
    if plain_class(operation) in PASS_THROUGH:
        return ()
    if is_fused(operation, readers, is_output):
        return ()
    activation = getattr(operation, "activation", None)
    apart = is_kernel_layer(operation) and activation not in FUSED_ACTIVATIONS
    names = ("preactivation",) if apart else ()
    names += ("gate",) if activation is keras.activations.silu else ()
    return (*names, "output")
