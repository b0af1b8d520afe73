"""What LiteRT computes in integers: one row for each layer, operation and activation.

Placement, layers, reports and the exact inference all read this table. To support
another layer, add its row, and its arithmetic if no row has it yet. The rows were read
in files of TensorFlow 2.21's converter and tried with LiteRT 2.3 and XNNPACK.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import keras
from keras import activations, layers

from keras_micronets import _keras_private

__all__ = [
    "ACTIVATIONS",
    "AUGMENTATIONS",
    "LAYERS",
    "OPERATIONS",
    "UNKNOWN",
    "ActivationRow",
    "KernelRow",
    "LayerRow",
    "activation_of",
    "activation_row",
    "attends_in_integers",
    "fuses",
    "has_micro_layer",
    "is_attention",
    "is_composite",
    "is_kernel_layer",
    "is_linear",
    "is_quantizable",
    "limit_of",
    "plain_class",
    "plain_operation",
    "reason_for_float",
    "row_of",
]


@dataclass(frozen=True)
class KernelRow:
    """How LiteRT stores a kernel, and rounds the sums that it makes.

    Attributes:
        axis: Axis with a scale for each index, in the layout of the file; `None` for
            one scale for the whole kernel. Defaults to `None`.
        normalized_axis: Axis that has the scales instead where a batch normalisation
            becomes part of the kernel. Defaults to `None`, for `axis`.
        min_bits: Fewest bits; a scheme with fewer gives the kernel 8. Defaults to 2.
        halves: How the sums of a 4-bit kernel round halves the second time, `"up"` or
            `"away"` from zero. Defaults to `"up"`.
        even_inputs_round_once: Whether those sums are rounded only once if the kernel
            has one scale and an even number of inputs, as by XNNPACK. Defaults to
            `False`.
        takes_output_scale: Whether it has no scale of its own, but the output's, since
            the output is part of it. Defaults to `False`.
    """

    axis: int | None = None
    normalized_axis: int | None = None
    min_bits: int = 2
    halves: str = "up"
    even_inputs_round_once: bool = False
    takes_output_scale: bool = False

    def second_rounding(self, axis: int | None, n_inputs: int) -> str | None:
        """Return how sums of 4-bit kernels are rounded again, `None` if they are not.

        Args:
            axis: Axis with a scale for each index, or `None`.
            n_inputs: Number of inputs of one output.
        """
        once = self.even_inputs_round_once and axis is None and n_inputs % 2 == 0
        return None if once else self.halves


@dataclass(frozen=True)
class LayerRow:
    """What LiteRT does with a layer, or with an operation of a graph.

    Attributes:
        reason: Why a file computes it in float, as reports print it; `None` if LiteRT
            has an integer kernel. Defaults to `None`.
        reason_of: Function of the layer that returns such a reason, where it depends on
            the layer's arguments or calls. Defaults to `None`.
        kernels: Dictionary from the names of its kernels to a `KernelRow`, in the
            order in which they are applied. Defaults to `{}`.
        values: What happens to integers: `"computed"` into another range, `"moved"`,
            `"averaged"` within their range, `"joined"` with others that share their
            range, or `"compared"`, which makes Booleans. Defaults to `"computed"`.
        rounding: Name of the integer operation before the output is rounded, `"up"` or
            `"away"` for the halves of averages, or `"clip"` where moved values are
            rounded again. `None` where LiteRT rounds the exact result. Defaults to
            `None`.
        fuses_rectifier: Whether a ReLU or ReLU6 that reads it is fused into it.
            Defaults to `False`.
        normalizes: Whether it is folded into a kernel before it. Defaults to `False`.
        activation: For layers that are nothing but an activation: function of the
            layer that returns its `keras.activations` function. Defaults to `None`.
        reads_indices: Whether its inputs are indices, which are never rounded. Defaults
            to `False`.
        supports: For operations: function of the positional arguments that returns
            whether LiteRT has integers for them; tensors are symbolic. Defaults to a
            function that returns `True`.
        pools: Whether the converter makes a rectifier after it a part of it, which then
            needs the same range. Defaults to `False`.
        is_composite: Whether its kernels are those of layers inside, which have their
            own rows. Defaults to `False`.
    """

    reason: str | None = None
    reason_of: Callable | None = None
    kernels: dict[str, KernelRow] = field(default_factory=dict)
    values: str = "computed"
    rounding: str | None = None
    fuses_rectifier: bool = False
    normalizes: bool = False
    activation: Callable | None = None
    reads_indices: bool = False
    supports: Callable[..., bool] = lambda *args: True
    pools: bool = False
    is_composite: bool = False

    @property
    def has_kernel_scales(self) -> bool:
        """Whether a kernel has scales other than the output's, and thus a quantiser."""
        return any(not row.takes_output_scale for row in self.kernels.values())

    @property
    def keeps_scale(self) -> bool:
        """Whether the output has the scale of the input."""
        return self.values in ("moved", "averaged")

    @property
    def fuses_normalization(self) -> bool:
        """Whether its last kernel can have one scale per channel.

        Folding a batch normalisation needs this.
        """
        *_, last = (None, *self.kernels.values())
        return last is not None and (last.axis, last.normalized_axis) != (None, None)


@dataclass(frozen=True)
class ActivationRow:
    """What LiteRT does with an activation function.

    Attributes:
        fixed_range: Tuple `(lower, upper)` that its output has with any data; `None`
            if the range is learned. Defaults to `None`.
        fused: Whether the operation before computes it. Defaults to `False`.
        limit: Largest output of a fused rectifier; `None` for other functions.
            Defaults to `None`.
        least: Smallest output of a fused rectifier. Defaults to 0.
        rounding: Name of its integer operation; `None` where LiteRT rounds the exact
            result. Defaults to `None`.
        gate: Activation of the input that is rounded, and then combined with the input
            by `rounding`; `None` for functions without one. Defaults to `None`.
    """

    fixed_range: tuple[float, float] | None = None
    fused: bool = False
    limit: float | None = None
    least: float = 0.0
    rounding: str | None = None
    gate: Callable | None = None


# Activations without a row are computed in float.
ACTIVATIONS: dict[Any, ActivationRow] = {
    None: ActivationRow(fused=True),
    activations.linear: ActivationRow(fused=True),
    activations.relu: ActivationRow(fused=True, limit=math.inf),
    activations.relu6: ActivationRow(fused=True, limit=6.0),
    activations.sigmoid: ActivationRow(fixed_range=(0.0, 255 / 256)),
    activations.softmax: ActivationRow(fixed_range=(0.0, 255 / 256)),
    activations.tanh: ActivationRow(fixed_range=(-1.0, 127 / 128)),
    activations.silu: ActivationRow(rounding="product", gate=activations.sigmoid),
    activations.hard_silu: ActivationRow(rounding="hard_swish"),
    activations.exponential: ActivationRow(),
    activations.gelu: ActivationRow(),
    activations.hard_tanh: ActivationRow(fused=True, limit=1.0, least=-1.0),
    activations.leaky_relu: ActivationRow(rounding="leaky"),
    activations.log_softmax: ActivationRow(fixed_range=(-255 / 16, 0.0)),
    activations.soft_shrink: ActivationRow(),
    activations.tanh_shrink: ActivationRow(
        rounding="difference", gate=activations.tanh
    ),
}


def _relu(layer):
    settings = layer.max_value, bool(layer.negative_slope), bool(layer.threshold)
    known = {
        (None, False, False): activations.relu,
        (None, True, False): activations.leaky_relu,
        (6, False, False): activations.relu6,
    }
    return known.get(settings, "ReLU with these arguments")


def _always(activation):
    return lambda layer: activation


_ONE_SCALE = KernelRow(even_inputs_round_once=True)
_BY_UNIT = KernelRow(normalized_axis=-1, even_inputs_round_once=True)
_BY_CHANNEL = KernelRow(axis=-1)
_DEPTHWISE = KernelRow(axis=-1, halves="away")
_ONE_SCALE_8_BITS = KernelRow(min_bits=5)
_SEPARABLE = {"depthwise_kernel": _DEPTHWISE, "pointwise_kernel": _BY_CHANNEL}
_MOVED = LayerRow(values="moved")
_AVERAGED = LayerRow(values="averaged", rounding="away", pools=True)


_RECURRENT = LayerRow(
    reason="recurrent layers are pruned, not quantised",
    kernels={"kernel": KernelRow(), "recurrent_kernel": KernelRow()},
    activation=_always(None),
)


_BEGINS_AT_ZERO = "its steps are integers if states begin at zero and none is masked"


def _reason_of_steps(layer):
    """Return why the steps of an LSTM or GRU stay in float, or `None`."""
    if (layer.activation, layer.recurrent_activation) != _OF_GATES:
        return "its steps are integers with tanh and sigmoid only"
    if layer.stateful or _keras_private.n_inputs(layer) > 1:
        return _BEGINS_AT_ZERO
    if not getattr(layer, "reset_after", True):
        return "its steps are integers with reset_after only"
    n_steps = _keras_private.build_shape(layer)[1]
    if n_steps is None or n_steps < _FEWEST_STEPS:
        return f"its steps are integers from a fixed number of {_FEWEST_STEPS} on"
    return None


def _reason_of_directions(layer):
    """Return why a `Bidirectional` layer stays in float, or `None`."""
    if layer.merge_mode != "concat" or layer.return_state:
        return "both directions are integers only if their outputs are concatenated"
    if _keras_private.n_inputs(layer) > 1:
        return _BEGINS_AT_ZERO
    reasons = map(_row_reason, (layer.forward_layer, layer.backward_layer))
    return next((reason for reason in reasons if reason is not None), None)


# A fully connected kernel of one scale for each unit needs two readers: the converter
# then leaves the scales as they are.
_FEWEST_STEPS = 3
_OF_GATES = (activations.tanh, activations.sigmoid)
_STEPS = LayerRow(
    reason_of=_reason_of_steps,
    # The converter gives a kernel that several operations read 8 bits.
    kernels={
        "kernel": _ONE_SCALE,
        "recurrent_kernel": KernelRow(axis=-1, min_bits=5),
    },
    activation=_always(None),
)
_ATTENTION = LayerRow(is_composite=True)


def _kernel(row):
    return LayerRow(kernels={"kernel": row}, fuses_rectifier=True)


# The row of all others, which are left unchanged: no mask, no quantiser.
UNKNOWN = LayerRow(reason="no quantised micro layer")

LAYERS: dict[type, LayerRow] = {
    layers.Dense: _kernel(_BY_UNIT),
    layers.EinsumDense: _kernel(_ONE_SCALE),
    layers.Conv1D: _kernel(_BY_CHANNEL),
    layers.Conv2D: _kernel(_BY_CHANNEL),
    layers.DepthwiseConv1D: _kernel(_DEPTHWISE),
    layers.DepthwiseConv2D: _kernel(_DEPTHWISE),
    layers.SeparableConv1D: LayerRow(kernels=_SEPARABLE, fuses_rectifier=True),
    layers.SeparableConv2D: LayerRow(kernels=_SEPARABLE, fuses_rectifier=True),
    layers.Conv1DTranspose: _kernel(_ONE_SCALE_8_BITS),
    layers.Conv2DTranspose: _kernel(_ONE_SCALE_8_BITS),
    layers.Conv3D: LayerRow(
        reason="LiteRT has no integer Conv3D", kernels={"kernel": KernelRow()}
    ),
    layers.Conv3DTranspose: LayerRow(
        reason="LiteRT has no integer Conv3DTranspose", kernels={"kernel": KernelRow()}
    ),
    # Beside an Embedding, the converter gives a concatenation the range of a tanh or
    # sigmoid that it reads: files then differ by some steps, of which an export warns.
    layers.Embedding: LayerRow(
        kernels={"embeddings": KernelRow(takes_output_scale=True)}, reads_indices=True
    ),
    layers.SimpleRNN: _RECURRENT,
    layers.GRU: _STEPS,
    layers.LSTM: _STEPS,
    layers.Bidirectional: LayerRow(reason_of=_reason_of_directions, is_composite=True),
    layers.MultiHeadAttention: _ATTENTION,
    layers.GroupQueryAttention: _ATTENTION,
    # Scale and offset of each channel
    layers.BatchNormalization: LayerRow(
        rounding="affine", normalizes=True, fuses_rectifier=True
    ),
    layers.Normalization: LayerRow(rounding="affine"),
    layers.Rescaling: LayerRow(rounding="affine"),
    # Arithmetic
    layers.Add: LayerRow(rounding="sum", fuses_rectifier=True),
    layers.Average: LayerRow(rounding="average", fuses_rectifier=True),
    layers.Subtract: LayerRow(rounding="difference", fuses_rectifier=True),
    layers.Multiply: LayerRow(rounding="product", fuses_rectifier=True),
    layers.GlobalAveragePooling1D: LayerRow(rounding="mean"),
    layers.GlobalAveragePooling2D: LayerRow(rounding="mean"),
    layers.Concatenate: LayerRow(values="joined"),
    layers.Maximum: LayerRow(values="joined"),
    layers.Minimum: LayerRow(values="joined"),
    # Activations
    layers.Activation: LayerRow(activation=lambda layer: layer.activation),
    layers.LeakyReLU: LayerRow(
        rounding="leaky", activation=_always(activations.leaky_relu)
    ),
    layers.PReLU: LayerRow(),
    layers.ReLU: LayerRow(rounding="leaky", activation=_relu),
    layers.Softmax: LayerRow(activation=_always(activations.softmax)),
    # Averages of integers, rounded to the same scale
    layers.AveragePooling1D: _AVERAGED,
    layers.AveragePooling2D: _AVERAGED,
    layers.UpSampling2D: LayerRow(values="averaged", rounding="up"),
    # Integers that stay as they are
    layers.ActivityRegularization: _MOVED,
    layers.AlphaDropout: _MOVED,
    layers.Cropping1D: _MOVED,
    layers.Cropping2D: _MOVED,
    layers.Dropout: _MOVED,
    layers.Flatten: _MOVED,
    layers.GaussianDropout: _MOVED,
    layers.GaussianNoise: _MOVED,
    layers.GlobalMaxPooling1D: _MOVED,
    layers.GlobalMaxPooling2D: _MOVED,
    layers.Identity: _MOVED,
    layers.MaxPooling1D: replace(_MOVED, pools=True),
    layers.MaxPooling2D: replace(_MOVED, pools=True),
    layers.Permute: _MOVED,
    layers.Reshape: _MOVED,
    layers.SpatialDropout1D: _MOVED,
    layers.SpatialDropout2D: _MOVED,
    layers.ZeroPadding1D: _MOVED,
    layers.ZeroPadding2D: _MOVED,
}

# Layers that leave their inputs unchanged in inference, so files do not have them.
_AUGMENTATIONS = (
    *("AugMix", "CutMix", "MixUp", "RandAugment", "RandomBrightness"),
    *("RandomColorDegeneration", "RandomColorJitter", "RandomContrast"),
    *("RandomElasticTransform", "RandomErasing", "RandomFlip", "RandomGaussianBlur"),
    *("RandomGrayscale", "RandomHue", "RandomInvert", "RandomPerspective"),
    *("RandomPosterization", "RandomRotation", "RandomSaturation", "RandomSharpness"),
    *("RandomShear", "RandomTranslation", "RandomZoom"),
)
AUGMENTATIONS = frozenset(  # earlier versions of Keras have fewer
    getattr(layers, name) for name in _AUGMENTATIONS if hasattr(layers, name)
)


def _by_constant(x1, x2):
    return not isinstance(x2, keras.KerasTensor)


def _of_tensors(*args):
    return all(isinstance(x, keras.KerasTensor) for x in args)


def _squares(x1, x2):
    return isinstance(x2, int | float) and x2 == 2


# LiteRT's division of two tensors is far off near zero.
_QUOTIENT = LayerRow(rounding="quotient", fuses_rectifier=True, supports=_by_constant)
_SQUARE = LayerRow(rounding="square", fuses_rectifier=True)
_COMPARED = LayerRow(values="compared")
_JOINED = LayerRow(values="joined")
_PRODUCTS = LayerRow(rounding="products", supports=_of_tensors)

# Operations of graphs, by the names of their classes.
OPERATIONS: dict[str, LayerRow] = {
    "Add": LayerRow(rounding="sum", fuses_rectifier=True),
    "Subtract": LayerRow(rounding="difference", fuses_rectifier=True),
    "Multiply": LayerRow(rounding="product", fuses_rectifier=True),
    "Divide": _QUOTIENT,
    "TrueDivide": _QUOTIENT,
    "Negative": LayerRow(rounding="negated", fuses_rectifier=True),
    "Power": replace(_SQUARE, supports=_squares),
    "Square": _SQUARE,
    "Einsum": _PRODUCTS,
    "Matmul": _PRODUCTS,
    "Absolute": LayerRow(rounding="absolute"),
    "Exp": LayerRow(activation=_always(activations.exponential)),
    "Gelu": LayerRow(activation=_always(activations.gelu)),
    "HardTanh": LayerRow(activation=_always(activations.hard_tanh)),
    "HardSilu": LayerRow(activation=_always(activations.hard_silu)),
    "LeakyRelu": LayerRow(rounding="leaky"),
    "Log": LayerRow(),
    "LogSoftmax": LayerRow(activation=_always(activations.log_softmax)),
    "Mean": LayerRow(rounding="mean"),
    "Relu": LayerRow(activation=_always(activations.relu)),
    "Relu6": LayerRow(activation=_always(activations.relu6)),
    "Rsqrt": LayerRow(),
    "Sigmoid": LayerRow(activation=_always(activations.sigmoid)),
    "Silu": LayerRow(activation=_always(activations.silu)),
    "Softmax": LayerRow(activation=_always(activations.softmax)),
    "Sqrt": LayerRow(),
    "Sum": LayerRow(),
    "Tanh": LayerRow(activation=_always(activations.tanh)),
    "AveragePool": _AVERAGED,
    # Booleans
    "Equal": _COMPARED,
    "Greater": _COMPARED,
    "GreaterEqual": _COMPARED,
    "Less": _COMPARED,
    "LessEqual": _COMPARED,
    "NotEqual": _COMPARED,
    # Results that share a range with the inputs
    "Concatenate": _JOINED,
    "Maximum": _JOINED,
    "Minimum": _JOINED,
    "Stack": _JOINED,
    "Where": _JOINED,
    # Integers that stay as they are
    "Clip": replace(_MOVED, rounding="clip"),
    "ExpandDims": _MOVED,
    "Flip": _MOVED,
    "GetItem": _MOVED,
    "Max": _MOVED,
    "MaxPool": replace(_MOVED, pools=True),
    "Min": _MOVED,
    "Moveaxis": _MOVED,
    "Pad": _MOVED,
    "Ravel": _MOVED,
    "Repeat": _MOVED,
    "Reshape": _MOVED,
    "Roll": _MOVED,
    "Split": _MOVED,
    "Squeeze": _MOVED,
    "Swapaxes": _MOVED,
    "Take": replace(_MOVED, supports=_by_constant),
    "Tile": _MOVED,
    "Transpose": _MOVED,
}


def plain_operation(operation: Any) -> Any:
    """Return the operation that a micro layer computes, or the layer itself."""
    return getattr(operation, "plain_operation", operation)


def plain_class(operation: Any) -> type:
    """Return the Keras class of a layer or operation, prepared or not."""
    operation = plain_operation(operation)
    return vars(type(operation)).get("keras_class", type(operation))


def row_of(operation: Any) -> LayerRow:
    """Return the row of a layer or operation, prepared or not.

    Subclasses have that of unknown layers, since they may compute anything.
    """
    cls = plain_class(operation)
    if issubclass(cls, keras.Layer):
        return LAYERS.get(cls, UNKNOWN)
    in_keras = cls.__module__.startswith("keras.")
    return OPERATIONS.get(cls.__name__, UNKNOWN) if in_keras else UNKNOWN


def has_micro_layer(layer: Any) -> bool:
    """Return whether a layer or operation is a micro layer or can become one."""
    return row_of(layer) is not UNKNOWN


def is_kernel_layer(layer: Any) -> bool:
    """Return whether a layer has kernels that take masks."""
    return bool(row_of(layer).kernels)


def is_composite(layer: Any) -> bool:
    """Return whether a layer has its kernels in layers inside, and is prepared too."""
    return row_of(layer).is_composite


def is_attention(layer: Any) -> bool:
    """Return whether a layer is one of Keras's attention layers, prepared or not."""
    return row_of(layer) is _ATTENTION


def attends_in_integers(layer: Any) -> bool:
    """Return whether an attention layer's scores and their products are integers."""
    axes, has_gate = _keras_private.attention_settings(layer)
    return len(axes) == 1 and not has_gate


def is_quantizable(layer: Any) -> bool:
    """Return whether a layer can round its tensors as an integer file does."""
    return has_micro_layer(layer) and _row_reason(layer) is None


def _row_reason(operation):
    row = row_of(operation)
    return row.reason if row.reason_of is None else row.reason_of(operation)


def activation_of(operation: Any) -> Any:
    """Return the activation function that a layer or operation ends with, or `None`."""
    find = row_of(operation).activation
    return getattr(operation, "activation", None) if find is None else find(operation)


def activation_row(activation: Any) -> ActivationRow:
    """Return the row of an activation function; of an unknown one, an empty row."""
    return ACTIVATIONS.get(activation, ActivationRow())


def is_linear(layer: Any) -> bool:
    """Return whether a layer ends without an activation function."""
    return activation_of(layer) in (None, activations.linear)


def limit_of(layer: Any) -> float | None:
    """Return the limit of a rectifier that LiteRT fuses, 6 or infinity.

    Args:
        layer: A layer. For any that is not such a rectifier, `None` is returned.
    """
    find = row_of(layer).activation
    return None if find is None else activation_row(find(layer)).limit


def fuses(operation: Any, reader: Any) -> bool:
    """Return whether LiteRT computes a reader within the operation before it."""
    before = row_of(operation)
    if activation_row(activation_of(operation)).gate is not None:
        return limit_of(reader) is not None  # of its product or difference
    if not is_linear(operation):
        return False
    if row_of(reader).normalizes:
        return before.fuses_normalization
    return before.fuses_rectifier and limit_of(reader) is not None


def reason_for_float(operation: Any) -> str | None:
    """Return why a file computes an operation in float; `None` if it does not.

    Args:
        operation: An operation of a functional model, prepared or not.
    """
    if type(operation) in AUGMENTATIONS:
        return None
    if type(operation) is layers.SpectralNormalization:  # in training only
        return reason_for_float(operation.layer)
    if not has_micro_layer(operation):
        return UNKNOWN.reason
    if is_attention(operation) and not attends_in_integers(operation):
        return "gated attention, or along several axes, has float between projections"
    activation = activation_of(operation)
    if activation in ACTIVATIONS:
        return _row_reason(operation)
    return f"LiteRT has no integer {getattr(activation, '__name__', activation)}"
