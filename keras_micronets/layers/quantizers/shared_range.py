"""One range for all that a concatenation joins, found in the graph of a model."""

import keras
from keras import ops

from keras_micronets import _keras_private
from keras_micronets.layers.litert.capabilities import limit_of


class SharedRange:
    """The range of tensors that a concatenation joins: LiteRT has one for all.

    Each quantiser goes on learning the range of its own tensor, which is what is
    saved, and rounds within the smallest range that holds those of all.

    Args:
        members: Tuple of `ActivationQuantizer`s.
    """

    def __init__(self, members: tuple):
        self.members = members

    def bounds(self, *, without=None):
        """Return the tensors `(lower, upper)` that hold the ranges of the members.

        Args:
            without: A member whose range is left out. Defaults to `None`.
        """
        members = [member for member in self.members if member is not without]
        lower = ops.min(ops.stack([member.lower.value for member in members]))
        upper = ops.max(ops.stack([member.upper.value for member in members]))
        return ops.stop_gradient(lower), ops.stop_gradient(upper)


def join(quantizers: list) -> None:
    """Give quantisers, and all that they share a range with already, one range."""
    everyone = [member for one in quantizers for member in _with_its_own(one)]
    members = tuple(dict.fromkeys(everyone))
    if len(members) > 1:
        joint = SharedRange(members)
        for member in members:
            member.joint = joint


def _with_its_own(quantizer):
    return (quantizer,) if quantizer.joint is None else quantizer.joint.members


def join_read(layer: keras.layers.Layer, tensors: list) -> None:
    """Join the ranges of what a twin reads in a graph, if the device has one for them.

    That is so for a concatenation without a range of its own. Whatever reads a tensor
    that others quantise within a joint range, as they may the model's input, joins
    them, and so does a rectifier where others like it read the tensor.

    Args:
        layer: The twin.
        tensors: List of the symbolic tensors that it reads.
    """
    pairs = list(enumerate(tensors))
    if isinstance(layer, keras.layers.Concatenate):
        if not layer.quantizers.output:
            join([one for i, tensor in pairs for one in _rounding(layer, i, tensor)])
        return
    for i, tensor in pairs:
        _join_others(_rounding(layer, i, tensor) if _at_input(layer, i) else [])
    _join_others(_of_rectifiers(layer, tensors))


def _join_others(quantizers):
    if any(one.joint for one in quantizers):
        join(quantizers)


def join_all(layers: list) -> None:
    """Join the ranges of what concatenations read, in graphs that are there already."""
    for layer in layers:
        if isinstance(layer, keras.layers.Concatenate) and _is_micro_operation(layer):
            for tensors in _keras_private.calls(layer):
                join_read(layer, tensors)


def _rounding(layer, position, tensor):
    """Return the quantisers that round a tensor for one of its readers.

    Where a reader has a quantiser for it, so may the others: all see the same values.
    """
    own = _at_input(layer, position)
    return [*own, *_of_readers(tensor)] if own else _of_tensor(tensor)


def _of_tensor(tensor):
    """Follow a tensor back to where it is rounded."""
    operation, inputs = _keras_private.producer(tensor)
    if not _is_micro_operation(operation):
        return _of_readers(tensor)
    if operation.quantizers.output:
        return [operation.output_quantizer, *_of_rectifiers(operation, inputs)]
    pairs = enumerate(inputs)
    return [one for i, read in pairs for one in _rounding(operation, i, read)]


def _of_rectifiers(layer, tensors):
    """Return the quantisers of a rectifier, and of others like it that read the same.

    The converter makes one of all these.
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


def _is_micro_operation(operation):
    return hasattr(operation, "quantizers")
