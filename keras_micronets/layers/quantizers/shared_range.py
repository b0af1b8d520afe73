"""Share one range among the inputs of a concatenation, found in a model's graph."""

from typing import Any

import keras
from keras import ops

from keras_micronets import _keras_private
from keras_micronets.layers.litert.capabilities import limit_of

__all__ = ["SharedRange", "share_all_ranges", "share_range", "share_range_read"]


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


def share_range(quantizers: list) -> None:
    """Make quantisers share one range, with all that already share one with them."""
    everyone = [member for one in quantizers for member in _members(one)]
    members = tuple(dict.fromkeys(everyone))
    if len(members) > 1:
        shared = SharedRange(members)
        for member in members:
            member.shared_range = shared


def _members(quantizer):
    shared = quantizer.shared_range
    return (quantizer,) if shared is None else shared.members


def share_range_read(layer: keras.layers.Layer, tensors: list) -> None:
    """Share one range among the inputs of a micro layer where LiteRT requires it.

    It does in a concatenation whose output has no quantiser. A layer that reads a
    tensor that others quantise within a shared range, such as the model's input,
    shares it too, and so does a rectifier if equal ones read the same tensor.

    Args:
        layer: The micro layer.
        tensors: List of the symbolic tensors that it reads.
    """
    pairs = list(enumerate(tensors))
    if isinstance(layer, keras.layers.Concatenate):
        if not layer.quantizers.output:
            found = (_rounding(layer, i, tensor) for i, tensor in pairs)
            share_range([one for several in found for one in several])
        return
    for i, tensor in pairs:
        _extend_shared(_rounding(layer, i, tensor) if _at_input(layer, i) else [])
    _extend_shared(_of_rectifiers(layer, tensors))


def _extend_shared(quantizers):
    if any(one.shared_range for one in quantizers):
        share_range(quantizers)


def share_all_ranges(layers: list) -> None:
    """Share one range among the inputs of each concatenation in layers' graphs."""
    for layer in layers:
        if isinstance(layer, keras.layers.Concatenate) and _has_quantizers(layer):
            for tensors in _keras_private.calls(layer):
                share_range_read(layer, tensors)


def _rounding(layer, position, tensor):
    """Return the quantisers that round a tensor for one of its readers.

    If one reader has a quantiser for it, other readers may: they see the same values.
    """
    own = _at_input(layer, position)
    return [*own, *_of_readers(tensor)] if own else _of_tensor(tensor)


def _of_tensor(tensor):
    """Follow a tensor back to where it is rounded."""
    operation: Any
    operation, inputs = _keras_private.producer(tensor)
    if not _has_quantizers(operation):
        return _of_readers(tensor)
    if operation.quantizers.output:
        return [operation.output_quantizer, *_of_rectifiers(operation, inputs)]
    pairs = enumerate(inputs)
    return [one for i, read in pairs for one in _rounding(operation, i, read)]


def _of_rectifiers(layer, tensors):
    """Return the quantisers of a rectifier and of equal ones that read the same tensor.

    The converter merges them.
    """
    limit = limit_of(layer)
    if limit is None:
        return []
    readers = (reader for reader, _ in _keras_private.readers(tensors[0]))
    alike = [layer, *(reader for reader in readers if limit_of(reader) == limit)]
    return [one.output_quantizer for one in alike if hasattr(one, "output_quantizer")]


def _of_readers(tensor):
    readers = _keras_private.readers(tensor)
    return [one for reader, i in readers for one in _at_input(reader, i)]


def _at_input(layer, position):
    quantizer = getattr(layer, f"input_{position}_quantizer", None)
    return [] if quantizer is None else [quantizer]


def _has_quantizers(operation):
    return hasattr(operation, "quantizers")
