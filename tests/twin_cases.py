"""The seven kernel twins in many variations, and models made of one such layer."""

import inspect

import keras
import numpy as np

from keras_micronets import layers
from keras_micronets.layers import kernels, promote, set_quantizers

IMAGE, SERIES, FLAT = (7, 7, 4), (9, 4), (6,)

# name: (class of Keras, arguments, shape of an input)
PLAIN = {
    "dense": (keras.layers.Dense, {"units": 5}, FLAT),
    "einsum": (
        keras.layers.EinsumDense,
        {"equation": "abc,cd->abd", "output_shape": (None, 5), "bias_axes": "d"},
        SERIES,
    ),
    "conv1d": (keras.layers.Conv1D, {"filters": 5, "kernel_size": 3}, SERIES),
    "conv2d": (keras.layers.Conv2D, {"filters": 5, "kernel_size": 3}, IMAGE),
    "depthwise": (keras.layers.DepthwiseConv2D, {"kernel_size": 3}, IMAGE),
    "separable": (
        keras.layers.SeparableConv2D,
        {"filters": 5, "kernel_size": 3},
        IMAGE,
    ),
    "transpose": (
        keras.layers.Conv2DTranspose,
        {"filters": 5, "kernel_size": 3},
        IMAGE,
    ),
}
VARIATIONS = {
    **{f"{name}-nobias": (name, {"use_bias": False}) for name in PLAIN if name != "einsum"},
    "einsum-nobias": ("einsum", {"bias_axes": None}),
    "dense-series": ("dense", {}, SERIES),
    "dense-relu": ("dense", {"activation": "relu"}),
    "dense-softmax": ("dense", {"activation": "softmax"}),
    "dense-sigmoid": ("dense", {"activation": "sigmoid"}),
    "dense-tanh": ("dense", {"activation": "tanh"}),
    "dense-relu6": ("dense", {"activation": "relu6"}),
    "einsum-heads": ("einsum", {"equation": "abc,cde->abde", "output_shape": (None, 2, 3), "bias_axes": "de"}),
    "einsum-relu": ("einsum", {"activation": "relu"}),
    "conv1d-same": ("conv1d", {"padding": "same"}),
    "conv1d-causal": ("conv1d", {"padding": "causal", "dilation_rate": 2}),
    "conv1d-strides": ("conv1d", {"strides": 2, "padding": "same"}),
    "conv1d-dilation": ("conv1d", {"dilation_rate": 2}),
    "conv1d-relu": ("conv1d", {"activation": "relu"}),
    "conv1d-groups": ("conv1d", {"filters": 4, "groups": 2}),
    "conv2d-same": ("conv2d", {"padding": "same"}),
    "conv2d-strides": ("conv2d", {"strides": 2, "padding": "same"}),
    "conv2d-dilation": ("conv2d", {"dilation_rate": 2}),
    "conv2d-groups": ("conv2d", {"filters": 4, "groups": 2}),
    "conv2d-relu": ("conv2d", {"activation": "relu"}),
    "conv2d-softmax": ("conv2d", {"activation": "softmax"}),
    "conv2d-sigmoid": ("conv2d", {"activation": "sigmoid"}),
    "conv2d-tanh": ("conv2d", {"activation": "tanh"}),
    "conv2d-wide": ("conv2d", {"kernel_size": (1, 5), "padding": "same"}),
    "depthwise-same": ("depthwise", {"padding": "same"}),
    "depthwise-strides": ("depthwise", {"strides": 2, "padding": "same"}),
    "depthwise-dilation": ("depthwise", {"dilation_rate": 2}),
    "depthwise-twofold": ("depthwise", {"depth_multiplier": 2}),
    "depthwise-relu": ("depthwise", {"activation": "relu"}),
    "separable-same": ("separable", {"padding": "same"}),
    "separable-strides": ("separable", {"strides": 2, "padding": "same"}),
    "separable-dilation": ("separable", {"dilation_rate": 2}),
    "separable-twofold": ("separable", {"depth_multiplier": 2}),
    "separable-relu": ("separable", {"activation": "relu"}),
    "transpose-same": ("transpose", {"padding": "same"}),
    "transpose-strides": ("transpose", {"strides": 2, "padding": "same"}),
    "transpose-output": ("transpose", {"strides": 2, "output_padding": 1}),
    "transpose-dilation": ("transpose", {"dilation_rate": 2}),
    "transpose-relu": ("transpose", {"activation": "relu"}),
}


def resolve(case):
    if case in PLAIN:
        return PLAIN[case]
    name, changes, *shape = VARIATIONS[case]
    cls, arguments, own_shape = PLAIN[name]
    return cls, {**arguments, **changes}, (shape or [own_shape])[0]


def plain_model(case):
    cls, arguments, shape = resolve(case)
    return keras.Sequential([keras.Input(shape), cls(**arguments, name="only")])


def twin_model(case, how="direct"):
    """A model of one twin, used directly or promoted."""
    if how == "promoted":
        model = plain_model(case)
        promote(model, quantize=True)
        return model
    cls, arguments, shape = resolve(case)
    twin = getattr(layers, f"Micro{cls.__name__}")
    names = ["kernel", "input_0", "output"]
    if arguments.get("activation") in ("softmax", "sigmoid", "tanh"):
        names.append("preactivation")
    layer = twin(**arguments, quantizers=names, name="only")
    return keras.Sequential([keras.Input(shape), layer])


def inputs(model, n=64, seed=0):
    shape = (n, *model.inputs[0].shape[1:])
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def mask_and_quantize(model, sparsity=0.6):
    """Mask at random, train the bias, quantise, and learn the ranges of `inputs`."""
    rng = np.random.default_rng(1)
    for kernel in kernels(model):
        kernel.set_mask(rng.random(kernel.mask.shape) >= sparsity)
    bias = getattr(model.get_layer("only"), "bias", None)
    if bias is not None:
        bias.assign(rng.normal(size=bias.shape) * 0.1)
    set_quantizers(model, True)
    model(inputs(model), training=True)
    return model
