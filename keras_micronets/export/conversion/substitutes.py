"""Functions of Keras that the converter rejects, in operations that LiteRT has."""

from collections.abc import Callable
from typing import Any

__all__ = ["substitutes"]


def substitutes() -> dict[str, Callable]:
    """Return functions to use while a model is traced, by their names in `keras.ops`.

    They agree with Keras's, except that `argmax` and `argmin` take -0.0 and 0.0 for
    equal.
    """
    import tensorflow as tf

    def unary(function: Callable) -> Callable:
        return lambda x: function(tf.convert_to_tensor(x))

    return {
        "argmax": _index_of(tf, tf.argmax),
        "argmin": _index_of(tf, tf.argmin),
        "arctan": unary(lambda x: tf.atan2(x, tf.ones_like(x))),
        "arcsin": unary(lambda x: tf.atan2(x, tf.sqrt(1 - x * x))),
        "arccos": unary(lambda x: tf.atan2(tf.sqrt(1 - x * x), x)),
        "tan": unary(lambda x: tf.sin(x) / tf.cos(x)),
        "sinh": unary(lambda x: (tf.exp(x) - tf.exp(-x)) / 2),
        "cosh": unary(lambda x: (tf.exp(x) + tf.exp(-x)) / 2),
        "arcsinh": unary(
            lambda x: tf.sign(x) * tf.math.log(tf.abs(x) + tf.sqrt(x * x + 1))
        ),
        "arccosh": unary(lambda x: tf.math.log(x + tf.sqrt(x * x - 1))),
        "arctanh": unary(lambda x: (tf.math.log(1 + x) - tf.math.log(1 - x)) / 2),
    }


def _index_of(tf: Any, function: Callable) -> Callable:
    def index_of(x, axis=None, keepdims=False):
        x = tf.convert_to_tensor(x)
        rank = len(x.shape)
        if axis is None:
            index = function(tf.reshape(x, [-1]), axis=0, output_type="int32")
            return tf.reshape(index, [1] * rank) if keepdims else index
        index = function(x, axis=axis, output_type="int32")
        return tf.expand_dims(index, axis) if keepdims else index

    return index_of
