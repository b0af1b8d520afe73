"""Decide which tensors of a model are quantised, so that files hold integers only."""

from collections import defaultdict
from dataclasses import dataclass

import keras

from keras_micronets import _keras_private
from keras_micronets.layers.litert.capabilities import (
    activation_of,
    activation_row,
    fuses,
    is_kernel_layer,
    is_linear,
    is_quantizable,
    limit_of,
    reason_for_float,
    row_of,
)
from keras_micronets.layers.quantizers.scheme import QuantizerSpec
from keras_micronets.layers.side_by_side import SideBySide

__all__ = ["Placement", "place_quantizers"]


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

    Each tensor gets one quantiser: at the output of the layer that makes it, or, for
    input layers and operations without a micro layer, at the inputs of its readers.
    There is none inside a sequence that LiteRT computes as one operation (kernel, batch
    normalisation, rectifier; addition, rectifier), and none after a layer that only
    moves values. A concatenation is such a layer: its inputs share one range. An input
    with a fixed range, such as a softmax's output, is quantised again. A subclassed
    model has no graph to read. There, every layer with a kernel has its input and
    output quantised.

    Args:
        model: A built model. Nested functional models are included.
        share_ranges: Boolean, whether tensors can share a range; if not,
            concatenations have a range of their own. Defaults to `True`.

    Returns:
        A `Placement`.
    """
    placer = _Placer(share_ranges)
    placer.place(model, is_raw=True)
    return Placement(placer.quantizers, tuple(placer.floating), tuple(placer.unfused))


class _Placer:
    """Traverse a model's graphs and collect the contents of a `Placement`."""

    def __init__(self, share_ranges):
        self.share_ranges = share_ranges
        self.quantizers, self.floating, self.unfused = {}, [], []

    def place(self, model, is_raw):
        """Place the quantisers of a model; `is_raw` if nothing rounds its inputs."""
        if isinstance(model, SideBySide):
            for member in model.members:
                self.place(member, is_raw)
            return
        if not _keras_private.is_functional(model):
            self._place_everywhere(model)
            return
        readers, producers = defaultdict(list), defaultdict(list)
        for producer, reader, position in _keras_private.edges(model):
            readers[producer].append(reader)
            producers[reader].append((position, producer))
        outputs = _keras_private.output_operations(model)
        for operation in {**readers, **producers}:
            if isinstance(operation, keras.layers.InputLayer):
                continue
            if isinstance(operation, keras.Model):
                raw = bool(_unrounded(producers[operation], is_raw))
                self.place(operation, raw)
                continue
            self._report(operation, readers, producers, outputs, is_raw)
            if is_quantizable(operation):
                self._place_at(operation, readers, producers, outputs, is_raw)
            elif isinstance(operation, keras.Layer):  # it may contain kernel layers
                self._place_everywhere(operation)

    def _place_everywhere(self, model):
        for layer in _keras_private.flatten_layers(model):
            if is_kernel_layer(layer) and is_quantizable(layer):
                self._place_at_kernels(layer, inputs=(0,), **_at_output(layer))

    def _place_at(self, operation, readers, producers, outputs, is_raw):
        row, read_by = row_of(operation), readers[operation]
        separate = [
            (position, producer)
            for position, producer in producers[operation]
            if not _is_fused(producer, readers[producer], producer in outputs)
        ]
        inputs = _unrounded(separate, is_raw)
        fused = _is_fused(operation, read_by, operation in outputs)
        at_output = {} if row.keeps_scale or fused else _at_output(operation)
        if self.share_ranges and row.values == "joined":
            inputs, at_output = inputs + _not_shared(operation, is_raw), {}
        self._place_at_kernels(
            operation,
            per_unit=_needs_scale_per_unit(operation, read_by),
            inputs=inputs,
            **at_output,
        )

    def _place_at_kernels(self, layer, inputs, **arguments):
        row = row_of(layer)
        inputs = () if row.reads_indices else inputs
        spec = QuantizerSpec(row.has_kernel_scales, inputs=inputs, **arguments)
        self.quantizers[layer] = self.quantizers.get(layer, QuantizerSpec()) | spec

    def _report(self, operation, readers, producers, outputs, is_raw):
        """Note whether an operation stays in float or separate from a kernel."""
        made_by = [producer for _, producer in producers[operation]]
        read_by = [] if operation in outputs else readers[operation]
        reason = reason_for_float(operation)
        if reason and not _is_in_integers(operation, made_by, read_by, is_raw=is_raw):
            kind = type(operation).__name__
            self.floating.append(f"{operation.name} ({kind}): {reason}")
        if _is_unfused(operation, producers):
            self.unfused.append(operation.name)


def _is_fused(operation, readers, is_output):
    """Whether an operation is computed together with its readers.

    It has one reader, or several equal rectifiers, which the converter merges.
    """
    if is_output or not readers:
        return False
    limits = {limit_of(reader) for reader in readers}
    alike = len(readers) == 1 or (len(limits) == 1 and None not in limits)
    return alike and all(fuses(operation, reader) for reader in readers)


def _is_unfused(operation, producers):
    """Whether a normalisation would be part of a kernel without an activation."""
    if not row_of(operation).normalizes:
        return False
    _, before = producers[operation][0]
    if row_of(before).activation is not None:
        return is_kernel_layer(producers[before][0][1])
    return is_kernel_layer(before) and not is_linear(before)


def _is_in_integers(operation, producers, readers, *, is_raw):
    """Whether a file has integers for an operation that is not a layer.

    It has if all inputs are rounded, and all readers round its result.
    """
    inner = [
        x for x in producers if is_raw or not isinstance(x, keras.layers.InputLayer)
    ]
    rounded = all(map(_rounds, inner)) and all(map(is_quantizable, readers))
    return bool(readers) and rounded and _has_integers(operation)


def _rounds(producer):
    if _keras_private.is_functional(producer):
        return all(map(_rounds, _keras_private.output_operations(producer)))
    return is_quantizable(producer)


def _has_integers(operation):
    row = row_of(operation)
    if isinstance(operation, keras.Layer) or row.reason is not None:
        return False
    return not row.constant_second or not any(
        isinstance(second, keras.KerasTensor)
        for _, second in _keras_private.arguments(operation)
    )


def _unrounded(producers, is_raw):
    """Return the positions of the tensors that nothing rounds where they are made."""
    return tuple(
        position
        for position, producer in producers
        if (isinstance(producer, keras.layers.InputLayer) and is_raw)
        or not (is_quantizable(producer) or isinstance(producer, _ROUND_THEIR_OWN))
    )


# An inner model's inputs are quantised where the outer model makes them, if at all.
_ROUND_THEIR_OWN = (keras.Model, keras.layers.InputLayer)


def _needs_scale_per_unit(operation, readers):
    """Whether a batch normalisation is folded into the kernel of a Dense layer."""
    rows = row_of(operation).kernels.values()
    by_unit = any(row.normalized_axis is not None for row in rows)
    normalized = len(readers) == 1 and fuses(operation, readers[0])
    return by_unit and normalized and row_of(readers[0]).normalizes


def _not_shared(layer, is_raw):
    """Return the positions of inputs whose fixed ranges differ from the others'."""
    positions = ()
    for tensors in _keras_private.calls(layer):
        ranges = [_fixed_range(tensor, is_raw) for tensor in tensors]
        if len(set(ranges)) > 1:
            positions += tuple(i for i, one in enumerate(ranges) if one is not None)
    return positions


def _fixed_range(tensor, is_raw):
    """Return the range that a tensor cannot share, or `None` if it can."""
    operation, inputs = _keras_private.producer(tensor)
    row = row_of(operation)
    if row.keeps_scale or row.values == "joined":
        ranges = {_fixed_range(one, is_raw) for one in inputs}
        return ranges.pop() if len(ranges) == 1 else None
    is_input = isinstance(operation, keras.layers.InputLayer)
    if isinstance(operation, keras.Model) or (is_input and not is_raw):
        return object()  # the range of another graph, unlike any other
    if not is_quantizable(operation):
        return None  # its readers quantise it
    return activation_row(activation_of(operation)).fixed_range


def _at_output(operation):
    """Return the arguments of a `QuantizerSpec` for an activation and the output."""
    row = activation_row(activation_of(operation))
    separate = is_kernel_layer(operation) and not row.fused
    gate = row.rounding == "gate"
    return {"preactivation": separate, "gate": gate, "output": True}
