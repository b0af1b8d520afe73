"""Remember which operation made a tensor, for the layers that read it.

LiteRT rounds a bias to the step of its layer's accumulator, averages within the
integers of what it averages, and multiplies an accumulator by the ratio of two scales.
To round alike, a layer has to know what made its input: the quantiser that rounded it,
or, if nothing rounded it yet, the integer operation that computes it in more bits.
The answer differs from call to call of a shared layer, and subclassed models have no
graph to look it up in. Each tensor is therefore tagged with its origin when it is made:
a dictionary maps the tensor's `id` to the origin, and a finaliser removes the entry
when the tensor is deleted. Origins hold layers, functions and weak references, never
tensors, which would keep a whole graph alive.
"""

import weakref
from typing import Any

from keras import ops

from keras_micronets._backend import is_traced_by_torch

__all__ = [
    "SMALLEST_STEP",
    "IntegerOperation",
    "integer_operation_of",
    "quantizer_of",
    "tag",
    "tag_moved",
]

SMALLEST_STEP = 1e-20

_ORIGINS: dict[int, Any] = {}


class IntegerOperation:
    """Base of the operations whose results have more than 8 bits until rounded.

    Subclasses have a `scale()`, the real value of one integer of the result, or their
    own `integers()`.

    Attributes:
        by_value: Boolean, whether a value of the result can be rounded without its
            place in the tensor, so also once it was moved.
    """

    by_value: Any = False

    def scale(self) -> Any:
        """Return the real value of one integer."""
        raise NotImplementedError

    def integers(self, values: Any, target: Any) -> Any:
        """Return the integers to which LiteRT rounds the result, not yet clipped.

        It multiplies the integers of the result by the ratio of the two scales.

        Args:
            values: The result as Keras computes it, a float tensor.
            target: The `ActivationQuantizer` that rounds it. Its integers are counted
                from its zero point.
        """
        own = ops.maximum(self.scale(), SMALLEST_STEP)  # zero where gamma is
        integers = ops.round(ops.divide(values, own))
        return ops.round(ops.multiply(integers, ops.divide(own, target.scale())))


def tag(tensor: Any, origin: Any) -> Any:
    """Remember what made a tensor, and return the tensor.

    Nothing is remembered while `torch.compile` traces: there, inference rounds as
    training does.

    Args:
        tensor: A tensor.
        origin: The `ActivationQuantizer` that rounded it, the `IntegerOperation` that
            made it, or `None` if it is unknown.
    """
    if origin is not None and not is_traced_by_torch():
        key = id(tensor)
        if key not in _ORIGINS:
            weakref.finalize(tensor, _ORIGINS.pop, key, None).atexit = False
        _ORIGINS[key] = origin
    return tensor


def tag_moved(tensor: Any, quantizer: Any) -> Any:
    """Tag a tensor of rounded values that were only moved, and return it.

    For an export it is rounded again: the converter loses the scale of a tensor that
    several operations read.

    Args:
        tensor: A tensor.
        quantizer: The `ActivationQuantizer` that rounded its values, or `None`.
    """
    if quantizer is not None and quantizer.constant:
        return quantizer(tensor)
    return tag(tensor, quantizer)


def quantizer_of(tensor: Any) -> Any:
    """Return the `ActivationQuantizer` that rounded a tensor, or `None`."""
    origin = _ORIGINS.get(id(tensor))
    return None if isinstance(origin, IntegerOperation) else origin


def integer_operation_of(tensor: Any) -> IntegerOperation | None:
    """Return the operation that made a tensor, if it is not rounded yet, or `None`."""
    origin = _ORIGINS.get(id(tensor))
    return origin if isinstance(origin, IntegerOperation) else None
