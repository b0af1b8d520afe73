"""Which integers a tensor holds on the device, for the layers that read it.

A device rounds a bias to the step of its layer's sums, averages on the grid of what it
averages, and multiplies sums by the ratio of two steps. Layers therefore have to know
what made their input, in graphs and in subclassed models, at each of their calls: a
tensor remembers it while it lives.
"""

import weakref

import keras
from keras import ops

SMALLEST_STEP = 1e-20

_SOURCES = {}


def mark(tensor, source):
    """Note what made a tensor, if known, and return the tensor.

    What `torch.compile` traces can't be noted; it rounds as in training.
    """
    if source is not None and not _is_traced_by_torch():
        key = id(tensor)
        if key not in _SOURCES:
            weakref.finalize(tensor, _SOURCES.pop, key, None).atexit = False
        _SOURCES[key] = source
    return tensor


def _is_traced_by_torch():
    if keras.backend.backend() != "torch":
        return False
    import torch

    return torch.compiler.is_compiling()


def grid_of(tensor):
    """Return the `ActivationQuantizer` that rounded a tensor, or `None`."""
    source = _SOURCES.get(id(tensor))
    return None if isinstance(source, Exact) else source


def sums_of(tensor):
    """Return the `Exact` source of a tensor that is not rounded yet, or `None`."""
    source = _SOURCES.get(id(tensor))
    return source if isinstance(source, Exact) else None


class Exact:
    """Base of what is behind a tensor that the device has in more than 8 bits."""

    def integers(self, values, target):
        """Return a tensor's integers as the device rounds them, not clipped.

        It multiplies its own integers by the ratio of their scale to the new one.

        Args:
            values: The tensor.
            target: The `ActivationQuantizer` whose integers are asked for; zero is 0.
        """
        own = ops.maximum(self.scale(), SMALLEST_STEP)  # zero where gamma is
        integers = ops.round(ops.divide(values, own))
        return ops.round(ops.multiply(integers, ops.divide(own, target.scale())))


def wide(values):
    """Cast to the precision in which the converter computes scales; JAX lacks it."""
    jax = keras.backend.backend() == "jax"
    return ops.cast(values, "float32" if jax else "float64")


def round_to_step(values, step, is_on):
    """Round values to multiples of a step, if quantisers are on.

    Args:
        values: Float tensor, as biases.
        step: Positive number, or tensor that broadcasts to `values`; where it is
            zero nothing is rounded.
        is_on: Boolean, or Boolean tensor of one element.
    """
    exact, safe = ops.cast(values, "float32"), ops.maximum(step, SMALLEST_STEP)
    rounded = ops.multiply(ops.round(ops.divide(exact, safe)), safe)
    wanted = ops.logical_and(is_on, ops.greater(step, SMALLEST_STEP))
    return ops.cast(ops.where(wanted, rounded, exact), values.dtype)
