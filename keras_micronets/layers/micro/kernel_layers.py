"""Micro layers of the Keras layers that have kernels."""

import math
from typing import Any

import keras
from keras import ops

from keras_micronets._backend import to_float64
from keras_micronets.layers.litert.affine import pointwise
from keras_micronets.layers.litert.integer_operations import Accumulator
from keras_micronets.layers.litert.provenance import quantizer_of, tag
from keras_micronets.layers.micro.masked_layer import MaskedLayer
from keras_micronets.layers.micro.micro_layer import micro_class

__all__ = [
    "MicroConv1D",
    "MicroConv1DTranspose",
    "MicroConv2D",
    "MicroConv2DTranspose",
    "MicroConv3DTranspose",
    "MicroDense",
    "MicroDepthwiseConv1D",
    "MicroDepthwiseConv2D",
    "MicroEinsumDense",
    "MicroKernelLayer",
    "MicroSeparableConv1D",
    "MicroSeparableConv2D",
]

MANY_TERMS = 2048


class MicroKernelLayer(MaskedLayer):
    """Base class of the micro layers that apply a kernel, add a bias and an activation.

    In inference the bias is rounded to the integers that LiteRT adds: their step is the
    input's step times the kernel's.
    """

    bias: Any
    activation: Any
    data_format: str
    rank: int

    def linear(self, inputs: Any) -> Any:
        """Apply the layer without its bias and activation."""
        raise NotImplementedError

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        inputs = self.quantize_inputs(inputs)
        accumulator = self.accumulator(inputs)
        outputs = self.linear(inputs) if training else self.predict_linear(inputs)
        if self.bias is not None:
            bias = self.bias
            if accumulator is not None and not training:
                bias = accumulator.round_bias(bias)
            if getattr(self, "data_format", None) == "channels_first":
                bias = ops.reshape(bias, (1, -1) + (1,) * self.rank)
            outputs = ops.add(outputs, bias)
        outputs = self.fake_quantize("preactivation", tag(outputs, accumulator))
        return self.activate(outputs, self.activation)

    def predict_linear(self, inputs: Any) -> Any:
        """Apply `linear` in inference."""
        return self.linear(inputs)

    def accumulator(self, inputs: Any) -> Accumulator | None:
        """Return LiteRT's accumulator of `linear`; `None` if it computes in float."""
        return self._accumulator(self.kernel_names[-1], quantizer_of(inputs))

    def _accumulator(self, name, input_quantizer):
        is_first = getattr(self, "data_format", None) == "channels_first"
        # LiteRT has no channels_first: exports are another model
        return None if is_first else self.kernel_accumulator(name, input_quantizer)


class _ManyTerms(MicroKernelLayer):
    """Mixin: inference adds many terms in 64 bits, since 32 are not exact enough.

    Only TensorFlow does: Keras's functions compute in 32 bits on the other backends.
    """

    kernel: Any

    def kernel_like(self, inputs: Any) -> Any:
        """Return the effective kernel, of the type of the inputs."""
        return ops.cast(self.effective_kernel(), inputs.dtype)

    def predict_linear(self, inputs: Any) -> Any:
        quantizer, n_terms = quantizer_of(inputs), math.prod(self.kernel.shape[:-1])
        rounds = quantizer is not None and quantizer.constant is None
        can = keras.backend.backend() == "tensorflow"
        if not (rounds and can) or n_terms < MANY_TERMS:
            return self.linear(inputs)
        return ops.cast(self.linear(to_float64(inputs)), inputs.dtype)


@micro_class(keras.layers.Dense)
class MicroDense(_ManyTerms, keras.layers.Dense):
    """`Dense` with a mask and fake quantisers; one scale for the kernel.

    With `quantizers.per_unit` each unit has a scale. The converter accepts only one for
    a fully connected operation, so the file has a 1 x 1 convolution.
    """

    def to_litert(self, name: str, kernel: Any) -> Any:
        return kernel[None, None] if self.quantizers.per_unit else kernel

    def linear(self, inputs: Any) -> Any:
        quantizer = quantizer_of(inputs)
        if self.quantizers.per_unit and quantizer is not None and quantizer.constant:
            return pointwise(inputs, self.litert_kernel())
        return ops.matmul(inputs, self.kernel_like(inputs))


@micro_class(keras.layers.EinsumDense)
class MicroEinsumDense(MicroKernelLayer, keras.layers.EinsumDense):
    """`EinsumDense` with a mask and fake quantisers; one scale for the kernel."""

    def linear(self, inputs: Any) -> Any:
        return ops.einsum(self.equation, inputs, self.effective_kernel())


@micro_class(keras.layers.Conv2D)
class MicroConv2D(_ManyTerms, keras.layers.Conv2D):
    """`Conv2D` with a mask and fake quantisers; a scale for each filter."""

    def linear(self, inputs: Any) -> Any:
        return self.convolution_op(inputs, self.kernel_like(inputs))


@micro_class(keras.layers.Conv3D)
class MicroConv3D(MicroKernelLayer, keras.layers.Conv3D):
    """A `Conv3D` layer with a mask; files compute it in float."""

    def linear(self, inputs):
        return self.convolution_op(inputs, self.effective_kernel())


@micro_class(keras.layers.Embedding)
class MicroEmbedding(MicroKernelLayer, keras.layers.Embedding):
    """An `Embedding` layer with a mask, and a fake quantiser on its output."""

    def call(self, inputs, training=None):
        is_float = keras.backend.is_float_dtype(inputs.dtype)
        indices = ops.cast(inputs, "int32") if is_float else inputs
        if training and self.probe is None:  # the gradient has only the rows in use
            kept = ops.take(self.embeddings_mask.mask, indices, axis=0)
            rows = ops.where(kept, ops.take(self.embeddings, indices, axis=0), 0.0)
        else:
            rows = ops.take(self.effective_kernel("embeddings"), indices, axis=0)
        return self.fake_quantize("output", ops.cast(rows, self.compute_dtype))


@micro_class(keras.layers.Conv1D)
class MicroConv1D(MicroKernelLayer, keras.layers.Conv1D):
    """`Conv1D` with a mask and fake quantisers; a scale for each filter.

    It computes a 2-D convolution of height 1, the only one that LiteRT has. The
    converter accepts a scale for each filter only of a kernel that is not reshaped.
    """

    def to_litert(self, name: str, kernel: Any) -> Any:
        return ops.expand_dims(kernel, 0)

    def linear(self, inputs: Any) -> Any:
        steps_axis = 1 if self.data_format == "channels_last" else 2
        padding = self.padding
        if padding == "causal":
            pads = [[0, 0]] * 3
            pads[steps_axis] = [self.dilation_rate[0] * (self.kernel_size[0] - 1), 0]
            inputs, padding = ops.pad(inputs, pads), "valid"
        outputs = ops.conv(
            ops.expand_dims(inputs, steps_axis),
            self.litert_kernel(),
            strides=(1, *self.strides),
            padding=padding,
            dilation_rate=(1, *self.dilation_rate),
            data_format=self.data_format,
        )
        return ops.squeeze(outputs, steps_axis)


class _Depthwise(MicroKernelLayer):
    def to_litert(self, name: str, kernel: Any) -> Any:
        return _flat_channels(kernel)

    def linear(self, inputs: Any) -> Any:
        return _depthwise(self, inputs, self.effective_kernel())


class _Separable(MicroKernelLayer):
    def build_state(self) -> None:
        super().build_state()
        if self.quantizers.kernel:
            for number in range(len(self.quantizers.calls)):
                self.add_quantizer("depthwise", number)

    def to_litert(self, name: str, kernel: Any) -> Any:
        if name == "depthwise_kernel":
            return _flat_channels(kernel)
        return ops.reshape(kernel, (1, 1, *kernel.shape[-2:]))

    def accumulator(self, inputs: Any) -> Accumulator | None:
        return self._accumulator("pointwise_kernel", self.quantizer("depthwise"))

    def linear(self, inputs: Any) -> Any:
        between = _depthwise(self, inputs, self.effective_kernel("depthwise_kernel"))
        tag(between, self._accumulator("depthwise_kernel", quantizer_of(inputs)))
        return ops.conv(
            self.fake_quantize("depthwise", between),
            self.litert_kernel("pointwise_kernel"),
            strides=1,
            padding="valid",
            data_format=self.data_format,
        )


class _Series(MicroKernelLayer):
    """Mixin: LiteRT computes layers of one dimension as images of height 1."""

    def linear(self, inputs: Any) -> Any:
        axis = 1 if self.data_format == "channels_last" else 2
        image = tag(ops.expand_dims(inputs, axis), quantizer_of(inputs))
        return ops.squeeze(super().linear(image), axis)


@micro_class(keras.layers.DepthwiseConv1D)
class MicroDepthwiseConv1D(_Series, _Depthwise, keras.layers.DepthwiseConv1D):
    """`DepthwiseConv1D` with a mask and fake quantisers; a scale for each channel."""


@micro_class(keras.layers.DepthwiseConv2D)
class MicroDepthwiseConv2D(_Depthwise, keras.layers.DepthwiseConv2D):
    """`DepthwiseConv2D` with a mask and fake quantisers; a scale for each channel."""


@micro_class(keras.layers.SeparableConv1D)
class MicroSeparableConv1D(_Series, _Separable, keras.layers.SeparableConv1D):
    """`SeparableConv1D` with masks and fake quantisers; a scale for each channel.

    See `MicroSeparableConv2D`.
    """


@micro_class(keras.layers.SeparableConv2D)
class MicroSeparableConv2D(_Separable, keras.layers.SeparableConv2D):
    """`SeparableConv2D` with masks and fake quantisers; a scale for each channel.

    LiteRT computes it as two convolutions. With `quantizers.kernel` the tensor between
    them is quantised too.
    """


class _Transposed(MicroKernelLayer):
    def linear(self, inputs: Any) -> Any:
        return ops.conv_transpose(
            inputs,
            self.effective_kernel(),
            strides=list(self.strides),
            padding=self.padding,
            output_padding=self.output_padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )


@micro_class(keras.layers.Conv2DTranspose)
class MicroConv2DTranspose(_Transposed, keras.layers.Conv2DTranspose):
    """`Conv2DTranspose` with a mask and fake quantisers; one scale for the kernel.

    LiteRT has no 4-bit kernel for it: a scheme with fewer than 5 bits gives this kernel
    8 bits.
    """


@micro_class(keras.layers.Conv1DTranspose)
class MicroConv1DTranspose(MicroKernelLayer, keras.layers.Conv1DTranspose):
    """`Conv1DTranspose` with a mask and fake quantisers, as `MicroConv2DTranspose`.

    It computes a 2-D transposed convolution of height 1, the only one that LiteRT has.
    """

    def to_litert(self, name: str, kernel: Any) -> Any:
        return ops.expand_dims(kernel, 0)

    def linear(self, inputs: Any) -> Any:
        axis = 1 if self.data_format == "channels_last" else 2
        padding = self.output_padding
        outputs = ops.conv_transpose(
            ops.expand_dims(inputs, axis),
            self.litert_kernel(),
            strides=[1, *self.strides],
            padding=self.padding,
            output_padding=padding and (0, *padding),
            dilation_rate=(1, *self.dilation_rate),
            data_format=self.data_format,
        )
        return ops.squeeze(outputs, axis)


@micro_class(keras.layers.Conv3DTranspose)
class MicroConv3DTranspose(_Transposed, keras.layers.Conv3DTranspose):
    """A `Conv3DTranspose` layer with a mask; files compute it in float."""


def _flat_channels(kernel):
    """Flatten filters of all input channels to one axis, as LiteRT stores them."""
    *size, channels, multiplier = kernel.shape
    height, width = (1, *size)[-2:]
    return ops.reshape(kernel, (height, width, 1, channels * multiplier))


def _depthwise(layer, inputs, kernel):
    strides, dilation = layer.strides, layer.dilation_rate
    if layer.rank == 1:  # TensorFlow needs equal strides; a height of 1 stays 1
        kernel, strides = ops.expand_dims(kernel, 0), strides * 2
        dilation = (1, *dilation)
    return ops.depthwise_conv(
        inputs,
        kernel,
        strides=strides,
        padding=layer.padding,
        dilation_rate=dilation,
        data_format=layer.data_format,
    )
