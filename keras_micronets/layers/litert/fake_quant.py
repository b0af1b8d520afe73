"""Round tensors to LiteRT's integer grids, in floats, with straight-through gradients.

TensorFlow's operations also compute gradients of the range for each channel, which
takes longer than the rounding. No quantiser here learns a range from them.
"""

import functools
from typing import Any

import keras
from keras import ops

__all__ = ["quantize_activation", "quantize_kernel"]


def quantize_kernel(
    kernel: Any,
    limit: Any,
    *,
    axis: int | None,
    bits: int,
    has_gradient: bool = True,
) -> Any:
    """Round a kernel within [-limit, limit]; gradients pass straight through.

    Args:
        kernel: Float tensor.
        limit: Tensor, the largest magnitude: one element, or one for each channel.
        axis: Integer, the axis of the channels, or `None`.
        bits: Integer from 2 to 8.
        has_gradient: Boolean, `False` where no gradients are needed: TensorFlow never
            frees a graph with gradients of this package. Defaults to `True`.

    Returns:
        Tensor of the kernel's shape and type.
    """
    quantize = functools.partial(
        keras.quantizers.fake_quant_with_min_max_vars,
        min_vals=-limit,
        max_vals=limit,
        num_bits=bits,
        narrow_range=True,
        axis=axis,
    )
    if keras.backend.backend() != "tensorflow" or not has_gradient:
        return quantize(kernel)
    return _with_gradient(kernel, quantize, lambda upstream, x: upstream)


def quantize_activation(
    inputs: Any,
    lower: Any,
    upper: Any,
    *,
    bits: int,
    rectify: bool = False,
    extremes: tuple[Any, Any] | None = None,
) -> Any:
    """Round a tensor within [lower, upper].

    Gradients pass for values inside, and are zero for values outside.

    Args:
        inputs: Float tensor.
        lower: Number or tensor of one element, not positive; 0 with `rectify`.
        upper: Number or tensor of one element, greater than `lower`.
        bits: Integer from 2 to 8.
        rectify: Boolean, whether to round `relu(inputs)`. Defaults to `False`.
        extremes: Tuple of the smallest and largest value to round, if known. If both
            lie within the bounds, the gradient is cheaper to compute. Defaults to
            `None`.

    Returns:
        Tensor of the shape and type of `inputs`.
    """
    quantize = functools.partial(
        keras.quantizers.fake_quant_with_min_max_vars,
        min_vals=lower,
        max_vals=upper,
        num_bits=bits,
    )
    if keras.backend.backend() != "tensorflow" or extremes is None:
        return quantize(ops.relu(inputs) if rectify else inputs)
    pass_back = _rectified_gradient if rectify else _clipped_gradient
    bounds = lower, upper
    return _with_gradient(
        inputs, quantize, lambda upstream, x: pass_back(upstream, x, bounds, extremes)
    )


def _with_gradient(x, function, gradient):
    """Apply a function on TensorFlow with `gradient(upstream, x)` as its gradient."""
    import tensorflow as tf

    @tf.custom_gradient
    def apply(x):
        return function(x), lambda upstream: gradient(upstream, x)

    return apply(tf.convert_to_tensor(x))  # of a variable it would need a gradient


def _rectified_gradient(upstream, inputs, bounds, extremes):
    import tensorflow as tf

    upper = bounds[1]
    return tf.cond(
        extremes[1] <= upper,
        lambda: tf.raw_ops.ReluGrad(gradients=upstream, features=inputs),
        lambda: _gradient_up_to(upper, upstream, inputs),
    )


def _clipped_gradient(upstream, inputs, bounds, extremes):
    import tensorflow as tf

    (lower, upper), (smallest, largest) = bounds, extremes
    margin = (upper - lower) * 1e-6  # values at the bounds are inside
    lower, upper = lower - margin, upper + margin
    return tf.cond(
        tf.logical_and(smallest >= lower, largest <= upper),
        lambda: tf.identity(upstream),
        lambda: _gradient_up_to(
            upper - lower, upstream, inputs - tf.cast(lower, inputs.dtype)
        ),
    )


def _gradient_up_to(upper, upstream, inputs):
    """Return the gradient of a clip to [0, upper], computed as a scaled ReLU6's.

    That is one pass over the tensor, where TensorFlow's fake quantisers take three.
    """
    import tensorflow as tf

    scaled = inputs * tf.cast(6.0 / upper, inputs.dtype)
    return tf.raw_ops.Relu6Grad(gradients=upstream, features=scaled)
