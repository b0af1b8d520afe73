"""Differences between Keras's backends that `keras.ops` does not hide."""

import keras
from keras import ops


def read(variable):
    """Return a variable's present value as a tensor that `ops.cond` takes.

    `ops.convert_to_tensor` passes TensorFlow's variables through as they are, and
    PyTorch's values change in place, which what a gradient remembers must not.
    """
    value = ops.stop_gradient(variable)
    return ops.copy(value) if keras.backend.backend() == "torch" else value


def choose(condition, on, off):
    """Return `on()` or `off()`, as `ops.cond` does.

    Where the condition has a value already, JAX would compile both anew at each
    call, and PyTorch compile anew what calls Keras's `cond`, which counts its calls.

    Args:
        condition: Boolean tensor of one element.
        on: Function without arguments.
        off: Function without arguments.
    """
    if _has_value(condition):
        return on() if condition else off()
    return ops.cond(condition, on, off)


def _has_value(tensor):
    if keras.backend.backend() == "jax":
        import jax

        return not isinstance(tensor, jax.core.Tracer)
    return keras.backend.backend() == "torch" and not tensor.is_meta
