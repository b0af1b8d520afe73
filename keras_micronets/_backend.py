"""Hide differences between Keras's backends that `keras.ops` leaves."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
from keras import ops

__all__ = [
    "cond",
    "distributed",
    "is_readable",
    "is_traced_by_torch",
    "read",
    "runs_on_torch",
    "to_float64",
]


def read(variable: Any) -> Any:
    """Return a variable's present value as a tensor that `ops.cond` takes.

    `ops.convert_to_tensor` passes TensorFlow's variables through as they are. PyTorch
    changes values in place, so a value that a gradient needs later is copied.
    """
    if keras.backend.backend() == "torch":
        return variable.value.detach().clone()
    return ops.stop_gradient(variable)


def distributed(model: Any) -> AbstractContextManager:
    """Return a context in which new variables are placed as a model's are.

    A model made under a `tf.distribute.Strategy` mirrors its variables, and so must all
    that training reads. On other backends variables have no such places.
    """
    strategy = getattr(model, "distribute_strategy", None)
    return nullcontext() if strategy is None else strategy.scope()


def cond(condition: Any, on: Callable, off: Callable) -> Any:
    """Return `on()` or `off()`, as `ops.cond` does.

    If the condition has a value already, only one of them is called. Otherwise JAX
    would compile both again at each call, and PyTorch would recompile the callers of
    Keras's `cond`, which counts its calls.

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
        from jax.core import Tracer

        return not isinstance(tensor, Tracer)
    return keras.backend.backend() == "torch" and not tensor.is_meta


def to_float64(values: Any) -> Any:
    """Cast to float64, the precision in which TensorFlow's converter computes scales.

    JAX has no float64 by default and keeps float32.
    """
    jax = keras.backend.backend() == "jax"
    return ops.cast(values, "float32" if jax else "float64")


def is_readable(tensor: Any) -> bool:
    """Return whether the code that runs or is traced now can read a tensor.

    In TensorFlow's graphs, code outside a loop cannot read a tensor made within it.
    """
    if keras.backend.backend() != "tensorflow":
        return True
    import tensorflow as tf

    made_in = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    return getattr(tensor, "graph", None) is made_in


def is_traced_by_torch() -> bool:
    """Return whether `torch.compile` is tracing the calling code."""
    if keras.backend.backend() != "torch":
        return False
    import torch

    return torch.compiler.is_compiling()


def runs_on_torch(tensor: Any) -> bool:
    """Return whether PyTorch computes a tensor now, without tracing.

    Each of its operations takes microseconds, also on a number, so NumPy computes
    numbers faster.
    """
    is_eager = keras.backend.backend() == "torch" and not is_traced_by_torch()
    return is_eager and not getattr(tensor, "is_meta", False)
