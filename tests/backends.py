"""What differs between the backends of Keras, for the tests."""

import keras
import numpy as np

BACKEND = keras.backend.backend()


def gradients(loss, variables):
    """Return the gradients of a scalar with respect to Keras variables, as arrays.

    Args:
        loss: Function without arguments that reads the variables.
        variables: List of Keras variables.
    """
    take = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[BACKEND]
    return [np.array(gradient) for gradient in take(loss, variables)]


def n_bytes(variable):
    """Return the bytes that the backend keeps for a Keras variable."""
    value = variable.value
    if BACKEND == "tensorflow":
        return value.dtype.size * int(np.prod(value.shape))
    return value.nbytes


def in_a_graph(function):
    """Return a function of one tensor as the backend compiles it."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function)
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    import torch

    return torch.compile(function, backend="eager")


def _tensorflow(loss, variables):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        value = loss()
    return tape.gradient(value, [variable.value for variable in variables])


def _jax(loss, variables):
    import jax

    def stateless(values):
        pairs = list(zip(variables, values, strict=True))
        with keras.StatelessScope(state_mapping=pairs):
            return loss()

    return jax.jit(jax.grad(stateless))([variable.value for variable in variables])


def _torch(loss, variables):
    import torch

    return torch.autograd.grad(loss(), [variable.value for variable in variables])
