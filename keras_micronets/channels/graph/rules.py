"""Channel rules: what each layer class does with the channels of its inputs.

A rule is called as `rule(tracer, layer, shape, *tensors)`, with the output's shape and
the traced inputs. It binds the layer's weights and returns the output's channels, by
axis. A rule of `call_rule_for` is called as `rule(tracer, layer, call, **arguments)`,
with the arguments of the call by name, and returns the channels of each output. `None`
instead means that the rule does not apply.
"""

import inspect
from collections.abc import Callable
from string import ascii_uppercase
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_micronets import _keras_private
from keras_micronets.channels.graph.node import TracedTensor
from keras_micronets.layers.litert.capabilities import plain_class, plain_operation

__all__ = ["apply_rule", "call_rule_for", "rule_for"]

_RULES: dict[Any, Callable] = {}
FILTERS = ("filters", None)


def rule_for(*classes: type) -> Callable:
    """Register a function of the input tensors as the rule of classes."""

    def register(rule):
        def apply(tracer, layer, call, tensors):
            channels = rule(tracer, layer, call.outputs[0].shape, *tensors)
            return None if channels is None else [channels]

        _RULES.update(dict.fromkeys(classes, apply))
        return rule

    return register


def call_rule_for(*classes: type) -> Callable:
    """Register a function of the arguments of a call as the rule of classes."""

    def register(rule):
        def apply(tracer, layer, call, tensors):
            return rule(tracer, layer, call, **_arguments(call, tensors))

        _RULES.update(dict.fromkeys(classes, apply))
        return rule

    return register


def _arguments(call, tensors):
    """Return the arguments of a call by name, traced tensors for symbolic ones."""
    traced = iter(tensors)
    args, kwargs = keras.tree.map_structure(
        lambda x: next(traced) if isinstance(x, keras.KerasTensor) else x,
        (call.args, call.kwargs),
    )
    signature = inspect.signature(plain_class(call.operation).call)
    _, *bound = signature.bind(None, *args, **kwargs).arguments.items()
    return dict(bound)


def apply_rule(
    tracer: Any, call: Any, tensors: list[TracedTensor]
) -> list[dict[int, np.ndarray]] | None:
    """Return the channels of each output of a call by axis; `None` without a rule.

    Layers that Keras has quantised, or given LoRA weights, have no rule.
    """
    operation = call.operation
    altered = getattr(operation, "quantization_mode", None) or getattr(
        operation, "lora_enabled", False
    )
    rule = None if altered else _RULES.get(plain_class(operation))
    if rule is None:
        return None
    return rule(tracer, plain_operation(operation), call, tensors)


def _kernel_rule(*classes, kernels=("kernel",), at_input=False):
    """Register a rule `(tracer, layer, channels, *kernels)` that returns new channels.

    The kernels are applied at each position of the output, or of the input.
    """

    def register(rule):
        @rule_for(*classes)
        def convolution(tracer, layer, shape, tensor):
            axis = 1 if layer.data_format == "channels_first" else len(shape) - 1
            reason = f"{layer.name} slides along their axis"
            tracer.protect(tensor, reason, except_axes=(axis,))
            weights = [getattr(layer, name) for name in kernels]
            out = rule(tracer, layer, tracer.channels(tensor, axis), *weights)
            spatial = [other for other in range(1, len(shape)) if other != axis]
            for kernel in weights:
                at = tensor.shape if at_input else shape
                tracer.add_kernel_call(kernel, at, spatial)
            return {axis: out}

        return rule

    return register


def _produce(tracer, layer, kernel, axis, setting, repeats=1):
    """Return the channels that a kernel produces; the bias has the same."""
    out = tracer.produce(layer, kernel, axis, setting, repeats)
    _follow(tracer, layer, out, "bias")
    return out


def _follow(tracer, layer, channels, *names):
    """Bind vectors of a layer that have one element for each channel."""
    for name in names:
        weight = getattr(layer, name, None)
        if weight is not None:
            tracer.bind(layer, weight, 0, channels)


def _tie_groups(tracer, channels, n_groups):
    """Tie the channels of all groups, so that each loses the same; return the first."""
    by_group = channels.reshape(n_groups, -1)
    tracer.ties.tie(by_group, np.broadcast_to(by_group[0], by_group.shape))
    return by_group[0]


@rule_for(layers.Dense)
def _dense(tracer, layer, shape, tensor):
    last, kernel = len(shape) - 1, layer.kernel
    tracer.bind(layer, kernel, 0, tracer.channels(tensor, last), role="reads")
    others = {axis: c for axis, c in tensor.channels.items() if axis != last}
    tracer.add_kernel_call(kernel, tensor.shape, range(1, last), others)
    return others | {last: _produce(tracer, layer, kernel, -1, ("units", None))}


@_kernel_rule(layers.Conv1D, layers.Conv2D, layers.Conv3D)
def _convolution(tracer, layer, channels, kernel):
    groups = layer.groups
    if groups == len(channels) > 1:  # a whole group is cut with its channel
        out = np.repeat(channels, layer.filters // groups)
        tracer.bind(layer, kernel, -1, out, FILTERS)
        tracer.bind(layer, None, 0, channels, ("groups", None))
        _follow(tracer, layer, out, "bias")
        return out
    first_group = _tie_groups(tracer, channels, groups)
    tracer.bind(layer, kernel, -2, first_group, role="reads")
    return _produce(tracer, layer, kernel, -1, FILTERS, groups)


@_kernel_rule(
    *(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose),
    at_input=True,
)
def _transposed(tracer, layer, channels, kernel):
    tracer.bind(layer, kernel, -1, channels, role="reads")
    return _produce(tracer, layer, kernel, -2, FILTERS)


@_kernel_rule(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
def _depthwise(tracer, layer, channels, kernel):
    tracer.bind(layer, kernel, -2, channels)
    out = np.repeat(channels, layer.depth_multiplier)
    _follow(tracer, layer, out, "bias")
    return out


@_kernel_rule(
    *(layers.SeparableConv1D, layers.SeparableConv2D),
    kernels=("depthwise_kernel", "pointwise_kernel"),
)
def _separable(tracer, layer, channels, depthwise, pointwise):
    tracer.bind(layer, depthwise, -2, channels)
    between = np.repeat(channels, layer.depth_multiplier)
    tracer.bind(layer, pointwise, -2, between, role="reads")
    return _produce(tracer, layer, pointwise, -1, FILTERS)


@rule_for(layers.EinsumDense)
def _einsum(tracer, layer, shape, tensor):
    read, weights, after = _letters(layer, len(tensor.shape))
    kernel, out = layer.kernel, {}

    def setting(letter):  # `output_shape` has no entry for the batch or an ellipsis
        explicit = layer.equation.partition("->")[2].replace(".", "").strip()
        skipped = 0 if "..." in layer.equation else 1
        return "output_shape", explicit.index(letter) - skipped

    for axis, letter in enumerate(read):
        if letter in weights and letter not in after:
            channels = tracer.channels(tensor, axis)
            tracer.bind(layer, kernel, weights.index(letter), channels, role="reads")
        elif letter in weights or axis in tensor.channels:
            out[letter] = tracer.channels(tensor, axis)
            if letter in weights:
                tracer.bind(layer, kernel, weights.index(letter), out[letter])
            if letter in layer.equation:
                tracer.bind(layer, None, axis, out[letter], setting(letter))
    for axis, letter in enumerate(weights):
        if letter not in read:
            out[letter] = tracer.produce(layer, kernel, axis, setting(letter))
    bias_shape = getattr(layer.bias, "shape", ())
    for axis, length in enumerate(bias_shape):
        letter = after[axis - len(bias_shape)]
        if length > 1 and letter in out:
            tracer.bind(layer, layer.bias, axis, out[letter])
    axes = [axis for axis in range(1, len(read)) if read[axis] not in weights]
    tracer.add_kernel_call(kernel, tensor.shape, axes, tensor.channels)
    return {after.index(letter): channels for letter, channels in out.items()}


def _letters(layer, rank):
    """Return the letters of an einsum's input, kernel and output, ellipses expanded."""
    read, _, rest = layer.equation.replace(" ", "").partition(",")
    weights, _, out = rest.partition("->")
    spare = [letter for letter in ascii_uppercase if letter not in layer.equation]
    batch = "".join(spare[: rank - len(read.replace("...", ""))])
    return read.replace("...", batch), weights, out.replace("...", batch)


@rule_for(layers.BatchNormalization)
def _batch_normalization(tracer, layer, shape, tensor):
    channels = tracer.channels(tensor, layer.axis % len(shape))
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    _follow(tracer, layer, channels, *names)
    return tensor.channels


@rule_for(layers.LayerNormalization, layers.RMSNormalization)
def _layer_normalization(tracer, layer, shape, tensor):
    axes = [axis % len(shape) for axis in np.atleast_1d(layer.axis)]
    for position, axis in enumerate(axes):
        if axis in tensor.channels:
            channels = tensor.channels[axis]
            tracer.bind(layer, None, axis, channels, role="averages")
            for name in ("gamma", "beta", "scale"):
                weight = getattr(layer, name, None)
                if getattr(weight, "shape", None):  # `scale` may be a Boolean
                    tracer.bind(layer, weight, position, channels)
    return tensor.channels


@rule_for(layers.GroupNormalization)
def _group_normalization(tracer, layer, shape, tensor):
    axis = layer.axis % len(shape)
    channels = tracer.channels(tensor, axis)
    if layer.groups == len(channels):  # each channel is normalised by itself
        tracer.bind(layer, None, 0, channels, ("groups", None))
    elif layer.groups != -1:
        _tie_groups(tracer, channels, layer.groups)
        tracer.bind(layer, None, axis, channels, role="averages")
        reason = f"{layer.name} takes a mean over them"
        tracer.protect(tensor, reason, except_axes=(0, axis))
    _follow(tracer, layer, channels, "gamma", "beta")
    return tensor.channels


@rule_for(*_keras_private.application_classes("ConvNeXtTiny", "LayerScale"))
def _layer_scale(tracer, layer, shape, tensor):
    channels = tracer.channels(tensor, len(shape) - 1)
    tracer.bind(layer, layer.gamma, 0, channels, ("projection_dim", None))
    return tensor.channels


@rule_for(layers.PReLU)
def _prelu(tracer, layer, shape, tensor):
    for axis, channels in tensor.channels.items():
        if layer.alpha.shape[axis - 1] > 1:
            tracer.bind(layer, layer.alpha, axis - 1, channels)
    return tensor.channels


@rule_for(layers.Embedding)
def _embedding(tracer, layer, shape, tensor):
    weight, setting = layer.embeddings, ("output_dim", None)
    return {len(shape) - 1: tracer.produce(layer, weight, -1, setting)}
