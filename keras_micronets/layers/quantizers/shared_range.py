"""Share one range among the inputs of a concatenation, found in a model's graph."""

from typing import Any

import keras
from keras import ops

from keras_micronets import _keras_private
from keras_micronets.layers.graph import current_pass, unroll
from keras_micronets.layers.litert.capabilities import limit_of, row_of

__all__ = ["SharedRange", "share_range", "share_ranges", "unite"]


class SharedRange:
    """The range that the inputs of a concatenation share, as in LiteRT.

    Each quantiser keeps learning the range of its own tensor, which is saved, and
    rounds within the smallest range that contains the ranges of all members.

    Args:
        members: Tuple of `ActivationQuantizer`s.
    """

    def __init__(self, members: tuple):
        self.members = members

    def bounds(self, *, without: Any = None) -> tuple:
        """Return the tensors `(lower, upper)` that contain the members' ranges.

        Args:
            without: A member whose range is left out. Defaults to `None`.
        """
        members = [member for member in self.members if member is not without]
        lower = ops.min(ops.stack([member.lower.value for member in members]))
        upper = ops.max(ops.stack([member.upper.value for member in members]))
        return ops.stop_gradient(lower), ops.stop_gradient(upper)

    def constant_bounds(self) -> tuple[float, float]:
        """Return the same as numbers, while the members are constant."""
        lower, upper = zip(*(one.constant_bounds for one in self.members), strict=True)
        return min(lower), max(upper)


def share_range(quantizers: list) -> None:
    """Make quantisers share one range, with all that already share one with them."""
    members = _all_members(quantizers)
    if len(members) > 1:
        shared = SharedRange(members)
        for member in members:
            member.shared_range = shared


def unite(quantizers: list) -> Any:
    """Return the first of several quantisers, with the range of all for this pass."""
    present = current_pass()
    if present is not None and len(quantizers) > 1:
        present.united[quantizers[0]] = SharedRange(_all_members(quantizers))
    return quantizers[0] if quantizers else None


def _all_members(quantizers):
    """Return quantisers and those that share a range with them, each once."""
    everyone = (member for one in quantizers for member in _members(one))
    return tuple(dict.fromkeys(everyone))


def _members(quantizer):
    shared = quantizer.shared_range
    return (quantizer,) if shared is None else shared.members


def share_ranges(model: keras.Layer, *, again: bool = False) -> None:
    """Share one range among the inputs of each concatenation in a model's graph.

    LiteRT requires it where the output of a concatenation has no quantiser. A layer
    that reads a tensor that others quantise within a shared range, such as the model's
    input, shares it too, and so does a rectifier if equal ones read the same tensor. So
    do the two directions of a `Bidirectional` layer.

    Args:
        model: A model or layer. One without a graph may have models inside that have
            one.
        again: Boolean, whether to read a graph that was read before. Defaults to
            `False`.
    """
    if again or "keras_micronets_shares" not in vars(model):
        vars(model)["keras_micronets_shares"] = True  # unknown to Keras's tracking
        for layer in _keras_private.flatten_layers(model):
            if hasattr(layer, "share_ranges"):  # those of layers inside
                layer.share_ranges()
        for graph in _graphs(model):
            for call in unroll(graph):
                if row_of(call.operation).values == "joined":
                    _share_inputs(call)


def _graphs(model):
    if _keras_private.is_functional(model):
        return [model]
    inner = _keras_private.flatten_layers(model)
    return [layer for layer in inner if _keras_private.is_functional(layer)]


def _share_inputs(call):
    if call.is_micro and call.quantizer("output") is None:
        positions = range(len(call.inputs))
        share_range([one for i in positions for one in _rounding(call, i)])


def _rounding(call, position):
    """Return the quantisers that round a tensor for one of its readers.

    If one reader has a quantiser for it, other readers may: they see the same values.
    """
    own, tensor = _at_input(call, position), call.inputs[position]
    return [*own, *_of_readers(tensor)] if own else _of_tensor(tensor)


def _of_tensor(tensor):
    """Follow a tensor back to where it is rounded."""
    call, index = tensor
    if not call.is_micro:
        is_moved = call.inputs and row_of(call.operation).keeps_scale
        return (is_moved and _of_tensor(call.inputs[0])) or _of_readers(tensor)
    output = call.quantizer(call.operation.output_tensor(index))
    if output is not None:
        return [output, *_of_rectifiers(call)]
    if row_of(call.operation).values == "compared":
        return []
    return [one for i in range(len(call.inputs)) for one in _rounding(call, i)]


def _of_rectifiers(call):
    """Return the quantisers of equal rectifiers that read the same tensor.

    The converter merges them.
    """
    limit = limit_of(call.operation)
    if limit is None:
        return []
    readers = (reader for reader, _ in _readers(call.inputs[0]))
    alike = [reader for reader in readers if limit_of(reader.operation) == limit]
    found = (one.quantizer("output") for one in alike)
    return [one for one in found if one is not None]


def _of_readers(tensor):
    return [
        one
        for call, i in _readers(tensor)
        if not (call.is_nested and call.shares_quantizers)
        for one in _at_input(call, i)
    ]


def _readers(tensor):
    call, index = tensor
    return [(reader, i) for reader, i, read in call.readers if read == index]


def _at_input(call, position):
    quantizer = call.quantizer(f"input_{position}")
    return [] if quantizer is None else [quantizer]
