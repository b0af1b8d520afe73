"""Micro layers with kernels in many configurations, and models of one such layer."""

import keras
import numpy as np

from keras_micronets import layers
from keras_micronets.layers import kernels, prepare, set_quantizers

IMAGE, SERIES, FLAT = (7, 7, 4), (9, 4), (6,)

# Name: class of Keras, its arguments, the shape of an input.
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
    "depthwise1d": (keras.layers.DepthwiseConv1D, {"kernel_size": 3}, SERIES),
    "separable1d": (
        keras.layers.SeparableConv1D,
        {"filters": 5, "kernel_size": 3},
        SERIES,
    ),
    "transpose": (
        keras.layers.Conv2DTranspose,
        {"filters": 5, "kernel_size": 3},
        IMAGE,
    ),
    "transpose1d": (
        keras.layers.Conv1DTranspose,
        {"filters": 5, "kernel_size": 3},
        SERIES,
    ),
}
_HEADS = {
    "equation": "abc,cde->abde",
    "output_shape": (None, 2, 3),
    "bias_axes": "de",
}
_CONVOLUTIONS = ("conv1d", "conv2d", "depthwise", "separable", "transpose")
_CONVOLUTIONS += ("depthwise1d", "separable1d")
# Name: what it varies, with which arguments, and another shape if it needs one.
VARIATIONS = {
    "einsum-nobias": ("einsum", {"bias_axes": None}),
    "einsum-heads": ("einsum", _HEADS),
    "dense-series": ("dense", {}, SERIES),
    "dense-relu6": ("dense", {"activation": "relu6"}),
    "conv1d-causal": ("conv1d", {"padding": "causal", "dilation_rate": 2}),
    "conv1d-groups": ("conv1d", {"filters": 4, "groups": 2}),
    "conv2d-groups": ("conv2d", {"filters": 4, "groups": 2}),
    "conv2d-wide": ("conv2d", {"kernel_size": (1, 5), "padding": "same"}),
    "depthwise-twofold": ("depthwise", {"depth_multiplier": 2}),
    "separable-twofold": ("separable", {"depth_multiplier": 2}),
    "separable1d-twofold": ("separable1d", {"depth_multiplier": 2}),
    "transpose-output": ("transpose", {"strides": 2, "output_padding": 1}),
    "transpose1d-output": ("transpose1d", {"strides": 3, "output_padding": 2}),
    "transpose1d-same": ("transpose1d", {"strides": 2, "padding": "same"}),
}
for _name in (name for name in PLAIN if not name.endswith("1d") or name == "conv1d"):
    VARIATIONS[f"{_name}-relu"] = (_name, {"activation": "relu"})
    if _name != "einsum":
        VARIATIONS[f"{_name}-nobias"] = (_name, {"use_bias": False})
for _name in _CONVOLUTIONS:
    VARIATIONS[f"{_name}-same"] = (_name, {"padding": "same"})
    VARIATIONS[f"{_name}-strides"] = (_name, {"strides": 2, "padding": "same"})
    VARIATIONS[f"{_name}-dilation"] = (_name, {"dilation_rate": 2})
for _activation in ("softmax", "sigmoid", "tanh"):
    for _name in ("dense", "conv2d"):
        VARIATIONS[f"{_name}-{_activation}"] = (_name, {"activation": _activation})
CASES = (*PLAIN, *VARIATIONS)


def resolve(case):
    """Return `(class of Keras, arguments, shape of an input)`."""
    if case in PLAIN:
        return PLAIN[case]
    name, changes, *shape = VARIATIONS[case]
    cls, arguments, own_shape = PLAIN[name]
    return cls, {**arguments, **changes}, (shape or [own_shape])[0]


def plain_model(case, **changes):
    cls, arguments, shape = resolve(case)
    layer = cls(**{**arguments, **changes}, name="only")
    return keras.Sequential([keras.Input(shape), layer])


def micro_class(case):
    return getattr(layers, f"Micro{resolve(case)[0].__name__}")


def micro_model(case, how="direct"):
    """Return a model of one micro layer, constructed or prepared."""
    if how == "prepared":
        model = plain_model(case)
        prepare(model, quantize=True)
        return model
    _, arguments, shape = resolve(case)
    names = ["kernel", "input_0", "output"]
    if arguments.get("activation") in ("softmax", "sigmoid", "tanh"):
        names.append("preactivation")
    layer = micro_class(case)(**arguments, quantizers=names, name="only")
    return keras.Sequential([keras.Input(shape), layer])


def inputs(model, n=64, seed=0):
    shape = (n, *model.inputs[0].shape[1:])
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def mask_and_quantize(model, sparsity=0.6):
    """Mask randomly, make biases nonzero, and observe the ranges of `inputs`."""
    rng = np.random.default_rng(1)
    for kernel in kernels(model):
        kernel.set_mask(rng.random(kernel.mask.shape) >= sparsity)
    for variable in model.trainable_variables:
        if variable.name == "bias":
            variable.assign(rng.normal(size=variable.shape) * 0.1)
    set_quantizers(model, True)
    model(inputs(model), training=True)
    return model


def predict(model, x=None):
    """Return the outputs without compiling a predict function."""
    x = inputs(model) if x is None else x
    return keras.ops.convert_to_numpy(model(x, training=False))


def state(model):
    """Return every raw weight, mask and range of a model by its path."""
    return {v.path: keras.ops.convert_to_numpy(v.value) for v in model.variables}
