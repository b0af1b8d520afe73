"""Round tensors to LiteRT's integer grids, in floats, with straight-through gradients.

TensorFlow's operations also compute gradients of the range for each channel, which
takes longer than the rounding. No quantiser here learns a range from them.
"""

import functools
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_micronets._backend import cond, runs_on_torch

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
    if runs_on_torch(kernel):
        return _kernel_on_torch(kernel, limit, axis, 2 ** (bits - 1) - 1)
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
    active: Any = True,
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

        active: Boolean, or Boolean tensor of one element, whether to round at all.
            Defaults to `True`.

    Returns:
        Tensor of the shape and type of `inputs`.
    """
    if keras.backend.backend() == "jax":
        return _activation_on_jax(inputs, lower, upper, 2**bits - 1, rectify, active)
    if active is not True:
        options = {"bits": bits, "rectify": rectify, "extremes": extremes}
        return cond(
            active,
            lambda: quantize_activation(inputs, lower, upper, **options),
            lambda: ops.relu(inputs) if rectify else inputs,
        )
    quantize = functools.partial(
        keras.quantizers.fake_quant_with_min_max_vars,
        min_vals=lower,
        max_vals=upper,
        num_bits=bits,
    )
    if runs_on_torch(inputs):
        return _activation_on_torch(inputs, lower, upper, 2**bits - 1, rectify)
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


def _nudged(compute, lower, upper, levels):
    """Return range, step, its inverse and the zero point of the grid that has zero.

    Those of `keras.quantizers.fake_quant_with_min_max_vars`, in the same precision.
    `compute` is NumPy or its equivalent.
    """
    numbers = (lower, upper, levels, 0.5)
    lower, upper, levels, half = (compute.asarray(x, "float32") for x in numbers)
    step, inverse = (upper - lower) / levels, levels / (upper - lower)
    below = compute.round(compute.clip(-lower / step, 0, levels))
    lower, upper = -below * step, (levels - below) * step
    return lower, upper, step, inverse, compute.floor(-lower * inverse + half)


def _activation_on_jax(inputs, lower, upper, levels, rectify, active):
    """Round with a gradient that reads the inputs alone.

    `lax.cond` would write what the gradients of its branches need to memory.
    """
    import jax
    import jax.numpy as jnp

    def rectified(x):
        return jax.nn.relu(x) if rectify else x

    def rounded(x, lower, upper, step, inverse, zero):
        values = jnp.clip(rectified(x).astype("float32"), lower, upper)
        values = jnp.floor(((values - lower) * inverse - zero) + 0.5) * step
        return values.astype(x.dtype)

    @jax.custom_vjp
    def apply(x, active, *grid):
        return cond(active, lambda: rounded(x, *grid), lambda: rectified(x))

    def forward(x, active, *grid):
        return apply(x, active, *grid), (x, active, *grid[:2])

    def backward(saved, upstream):
        x, active, lower, upper = saved
        inside = ((x >= lower) & (x <= upper)) | jnp.logical_not(active)
        inside = inside & (x > 0) if rectify else inside
        return (jnp.where(inside, upstream, 0), *[None] * 6)

    apply.defvjp(forward, backward)
    grid = map(jax.lax.stop_gradient, _nudged(jnp, lower, upper, levels))
    return apply(ops.convert_to_tensor(inputs), jnp.asarray(active), *grid)


def _activation_on_torch(inputs, lower, upper, levels, rectify):
    grid = _nudged(np, float(lower), float(upper), levels)
    lower, upper, step, inverse, zero = grid
    values = ops.convert_to_tensor(inputs)
    lowest = max(lower, 0.0) if rectify else lower
    outputs = values.detach().float().clamp(float(lowest), float(upper))
    outputs = _in_steps(outputs, *map(float, (lower, inverse, zero, step)))
    # PyTorch's gradient of a clip leaves its bounds out; a rectifier's does, too.
    below = 0.0 if rectify and lower >= 0 else float(np.nextafter(lowest, -np.inf))
    within = below, float(np.nextafter(upper, np.float32(np.inf)))
    return _rounding().apply(values, outputs.to(values.dtype), within)


def _kernel_on_torch(kernel, limit, axis, largest):
    kernel = ops.convert_to_tensor(kernel)
    limit = limit.detach()
    if axis is not None:
        shape = [1] * kernel.ndim
        shape[axis] = -1
        limit = limit.reshape(shape)
    step, inverse = limit / largest, largest / limit
    upper = step * largest
    outputs = kernel.detach().float().clamp(-upper, upper)
    outputs = _in_steps(outputs, -upper, inverse, largest, step)
    return _rounding().apply(kernel, outputs.to(kernel.dtype), None)


def _in_steps(values, lower, inverse, zero, step):
    """Round a clipped tensor in place: PyTorch's fused kernels take 30 times as long.

    They also round halves to even, and others up.
    """
    values = values.sub_(lower).mul_(inverse).sub_(zero - 0.5)
    return values.floor_().mul_(step)


@functools.cache
def _rounding():
    """Return the PyTorch function of rounded values with gradients of a clip."""
    import torch

    class Rounding(torch.autograd.Function):
        @staticmethod
        def forward(ctx, values, outputs, within):
            ctx.within = within
            if within is not None:
                ctx.save_for_backward(values)
            return outputs

        @staticmethod
        def backward(ctx, upstream):
            if ctx.within is None:
                return upstream, None, None
            (values,) = ctx.saved_tensors
            values = values.to(upstream.dtype)
            inside = torch.ops.aten.hardtanh_backward(upstream, values, *ctx.within)
            return inside, None, None

    return Rounding
