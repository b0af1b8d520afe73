"""Decide which tensors of a model are quantised, so that files hold integers only."""

from collections import defaultdict
from dataclasses import dataclass

import keras
from keras.layers import Softmax

from keras_micronets import _keras_private
from keras_micronets.layers.graph import GraphCall, unroll
from keras_micronets.layers.litert.capabilities import (
    activation_of,
    activation_row,
    attends_in_integers,
    fuses,
    is_attention,
    is_kernel_layer,
    is_linear,
    is_quantizable,
    limit_of,
    plain_class,
    plain_operation,
    reason_for_float,
    row_of,
)
from keras_micronets.layers.quantizers.scheme import QuantizerSpec
from keras_micronets.layers.side_by_side import SideBySide

__all__ = ["Placement", "is_fused", "place_quantizers"]


# Inputs of layers that LiteRT merges two at a time, which need no partial results.
_SEPARATE_INPUTS = {"sum": 2, "product": 2, "average": 1}
MASKED = "LiteRT has no integer kernel that takes a mask"


@dataclass(frozen=True)
class Placement:
    """Where the fake quantisers of a model go.

    Attributes:
        quantizers: Dictionary from layer to the `QuantizerSpec` of its quantisers.
        floating: Names of the operations that may stay in float, with their classes
            and the reasons. Arithmetic between rounded tensors does not.
        unfused: Names of the batch normalisations that an activation separates from
            the kernel before them.
    """

    quantizers: dict[keras.layers.Layer, QuantizerSpec]
    floating: tuple[str, ...]
    unfused: tuple[str, ...] = ()


def place_quantizers(model: keras.Model, *, share_ranges: bool = True) -> Placement:
    """Decide which tensors of a model get a fake quantiser.

    Each tensor gets one quantiser, one for each call of its layer: at the output of the
    layer that makes it, or, for input layers and operations without a micro layer, at
    the inputs of its readers.
    There is none inside a sequence that LiteRT computes as one operation (kernel, batch
    normalisation, rectifier; addition, rectifier), and none after a layer that only
    moves values. A concatenation is such a layer: its inputs share one range. An input
    with a fixed range, such as a softmax's output, is quantised again. A subclassed
    model has no graph to read. There, every layer with a kernel has its input and
    output quantised.

    Args:
        model: A built model. Nested functional models are read as part of it.
        share_ranges: Boolean, whether tensors can share a range; if not,
            concatenations have a range of their own. Defaults to `True`.

    Returns:
        A `Placement`.
    """
    placer = _Placer(share_ranges)
    placer.place(model)
    return Placement(placer.quantizers, tuple(placer.floating), tuple(placer.unfused))


class _Placer:
    """Traverse a model's graphs and collect the contents of a `Placement`."""

    def __init__(self, share_ranges):
        self.share_ranges = share_ranges
        self.calls, self.everywhere = defaultdict(list), {}
        self.floating, self.unfused = {}, {}

    def place(self, model):
        """Place the quantisers of a model."""
        if isinstance(model, SideBySide):
            for member in model.members:
                self.place(member)
        elif not _keras_private.is_functional(model):
            self._place_everywhere(model)
        else:
            for call in unroll(model):
                self._place_at(call)

    @property
    def quantizers(self):
        """The specifications by layer.

        Where some calls of a layer stand in no graph, all have the same quantisers.
        """
        found = {layer: QuantizerSpec.of_calls(x) for layer, x in self.calls.items()}
        for layer, spec in self.everywhere.items():
            found[layer] = spec | found.get(layer, QuantizerSpec())
        return found

    def _place_at(self, call):
        operation = call.operation
        if call.is_input:
            return
        self._report(call)
        if not call.is_float:
            self.calls[operation].append(QuantizerSpec())
        elif _is_quantizable(call) and not is_attention(operation):
            self.calls[operation].append(self._spec(call))
            if isinstance(operation, keras.layers.Bidirectional):
                for one in (operation.forward_layer, operation.backward_layer):
                    self.calls[one].append(_spec(one, (), output=True))
        elif isinstance(operation, keras.Layer):  # it may contain kernel layers
            self._place_everywhere(operation)

    def _place_everywhere(self, model):
        for layer in _keras_private.flatten_layers(model, _shows_layers):
            if is_kernel_layer(layer) and is_quantizable(layer):
                spec = _spec(layer, inputs=(0,), **_at_output(layer))
                self.everywhere[layer] = spec
            elif is_attention(layer) and attends_in_integers(layer):
                self.everywhere[layer] = QuantizerSpec(attention=True)

    def _spec(self, call):
        """Return the specification of one call of a layer."""
        row = row_of(call.operation)
        inputs = tuple(
            position
            for position, (producer, _) in enumerate(call.inputs)
            if not (_is_rounded(producer) or is_fused(producer))
            and not _holds_indices(producer)
            and not _reads_integers(call, position)
        )
        at_output = (
            {}
            if row.keeps_scale or row.values == "compared"
            else _at_output(call.operation, output=not is_fused(call))
        )
        if self.share_ranges and row.values == "joined":
            inputs, at_output = inputs + _not_shared(call), {}
        n_separate = _SEPARATE_INPUTS.get(row.rounding or "", len(call.inputs))
        return _spec(
            call.operation,
            inputs,
            per_unit=_needs_scale_per_unit(call),
            after_pooling=_is_after_pooling(call),
            partials=max(len(call.inputs) - n_separate, 0),
            **at_output,
        )

    def _report(self, call):
        """Note whether an operation stays in float or separate from a kernel."""
        operation = call.operation
        reason = reason_for_float(operation) or (_is_masked(call) and MASKED)
        if not reason and not _is_supported(call):
            reason = "LiteRT has no integers for it with these arguments"
        if reason and call.is_float:
            kind = type(plain_operation(operation)).__name__
            self.floating[f"{operation.name} ({kind}): {reason}"] = None
        if _is_unfused(call):
            self.unfused[operation.name] = None


def _shows_layers(layer):
    """Whether layers inside compute alone: `Bidirectional` joins two results."""
    return not isinstance(layer, keras.layers.Bidirectional)


def _is_masked(call):
    """Whether a mean or softmax leaves out what a mask excludes."""
    masks = len(call.inputs) - len(keras.tree.flatten(call.args))
    row = row_of(call.operation)
    takes_mask = row.rounding == "mean" or plain_class(call.operation) is Softmax
    return takes_mask and masks > 0


def _spec(layer, inputs, **arguments):
    row = row_of(layer)
    inputs = () if row.reads_indices else inputs
    return QuantizerSpec(row.has_kernel_scales, inputs=inputs, **arguments)


def is_fused(call: GraphCall) -> bool:
    """Whether a call is computed together with its readers.

    It has one reader, or several equal rectifiers, which the converter merges.
    """
    readers = [reader.operation for reader, _, _ in call.readers]
    if call.is_output or not readers:
        return False
    limits = {limit_of(reader) for reader in readers}
    alike = len(readers) == 1 or (len(limits) == 1 and None not in limits)
    return alike and all(fuses(call.operation, reader) for reader in readers)


def _is_rounded(call):
    """Whether no reader need round what a call makes."""
    return _is_quantizable(call)


def _is_quantizable(call):
    """Whether a call can round its tensors as an integer file does."""
    return is_quantizable(call.operation) and _is_supported(call)


def _is_supported(call):
    return row_of(call.operation).supports(*call.args)


def _holds_indices(call):
    """Whether what a call makes is read as indices only, which are never rounded."""
    rows = [(row_of(reader.operation), reader) for reader, _, _ in call.readers]
    return bool(rows) and all(
        row.reads_indices or (row.values == "moved" and _holds_indices(reader))
        for row, reader in rows
    )


def _reads_integers(call, position):
    """Whether an operation computes with integers; layers turn them into floats."""
    is_layer = isinstance(plain_operation(call.operation), keras.Layer)
    return not (is_layer or call.reads_float(position))


def _is_unfused(call):
    """Whether a normalisation would be part of a kernel without an activation."""
    if not row_of(call.operation).normalizes:
        return False
    before, _ = call.inputs[0]
    if row_of(before.operation).activation is not None:
        return is_kernel_layer(before.inputs[0][0].operation)
    return is_kernel_layer(before.operation) and not is_linear(before.operation)


def _needs_scale_per_unit(call):
    """Whether a batch normalisation is folded into the kernel of a Dense layer."""
    rows = row_of(call.operation).kernels.values()
    by_unit = any(row.normalized_axis is not None for row in rows)
    readers = [reader.operation for reader, _, _ in call.readers]
    normalized = len(readers) == 1 and fuses(call.operation, readers[0])
    return by_unit and normalized and row_of(readers[0]).normalizes


def _is_after_pooling(call):
    least = activation_row(activation_of(call.operation)).least
    if limit_of(call.operation) is None or least != 0:
        return False
    return any(row_of(producer.operation).pools for producer, _ in call.inputs)


def _not_shared(call):
    """Return the positions of inputs whose fixed ranges differ from the others'."""
    ranges = [_fixed_range(producer) for producer, _ in call.inputs]
    if len(set(ranges)) == 1:
        return ()
    return tuple(i for i, one in enumerate(ranges) if one is not None)


def _fixed_range(call):
    """Return the range that a tensor cannot share, or `None` if it can."""
    row = row_of(call.operation)
    if row.keeps_scale or row.values == "joined":
        ranges = {_fixed_range(producer) for producer, _ in call.inputs}
        return ranges.pop() if len(ranges) == 1 else None
    if not _is_quantizable(call):
        return None  # its readers quantise it
    return activation_row(activation_of(call.operation)).fixed_range


def _at_output(operation, output=True):
    """Return the arguments of a `QuantizerSpec` for an activation and the output."""
    row = activation_row(activation_of(operation))
    separate = is_kernel_layer(operation) and not row.fused
    gate = row.gate is not None
    return {"preactivation": separate, "gate": gate, "output": output}
