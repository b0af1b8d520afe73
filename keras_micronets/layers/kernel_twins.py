"""Twins of the Keras layers that have kernels."""

import keras
from keras import ops

from keras_micronets.layers.device.convolutions import pointwise
from keras_micronets.layers.device.source import grid_of, mark
from keras_micronets.layers.device.sums import half_away, half_up
from keras_micronets.layers.kernel_twin import KernelPropertyTwin, KernelTwin

KERNEL_TWINS: dict[type, type] = {}


def _twin_of(base):
    """Register a class as the twin of a Keras layer.

    Keras keys weight files by the name of a layer's class. A twin therefore bears
    the plain layer's name, so that each loads the other's files.
    """

    def register(cls):
        keras.saving.register_keras_serializable("keras_micronets", cls.__name__)(cls)
        cls.__name__ = base.__name__
        KERNEL_TWINS[base] = cls
        return cls

    return register


@_twin_of(keras.layers.Dense)
class MicroDense(KernelPropertyTwin, keras.layers.Dense):
    """A `Dense` layer with a mask and fake quantisers; one scale a kernel.

    With `"channels"` among the quantisers each unit has a scale of its own, as
    batch normalisation behind it wants. LiteRT's fully connected layer is denied
    that by the converter: on the device it is a 1 x 1 convolution.
    """

    def quantization_axis(self, name):
        return -1 if "channels" in self.quantizers else None

    def to_device(self, name, kernel):
        return kernel[None, None] if "channels" in self.quantizers else kernel

    def linear(self, inputs):
        grid = grid_of(inputs)
        if "channels" in self.quantizers and grid is not None and grid.frozen:
            return pointwise(inputs, self.device_kernel())
        return ops.matmul(inputs, self.kernel)


@_twin_of(keras.layers.EinsumDense)
class MicroEinsumDense(KernelPropertyTwin, keras.layers.EinsumDense):
    """An `EinsumDense` layer with a mask and fake quantisers; one scale a kernel."""

    def linear(self, inputs):
        return ops.einsum(self.equation, inputs, self.kernel)


@_twin_of(keras.layers.Conv2D)
class MicroConv2D(KernelPropertyTwin, keras.layers.Conv2D):
    """A `Conv2D` layer with a mask and fake quantisers; a scale for each filter."""

    def quantization_axis(self, name):
        return -1

    def linear(self, inputs):
        return self.convolution_op(inputs, self.kernel)


@_twin_of(keras.layers.Conv1D)
class MicroConv1D(KernelPropertyTwin, keras.layers.Conv1D):
    """A `Conv1D` layer with a mask and fake quantisers; a scale for each filter.

    It computes a 2-D convolution of height 1: LiteRT has no other, and the
    converter takes a scale for each filter only where it sees none being reshaped.
    """

    def quantization_axis(self, name):
        return -1

    def to_device(self, name, kernel):
        return ops.expand_dims(kernel, 0)

    def linear(self, inputs):
        steps_axis = 1 if self.data_format == "channels_last" else 2
        padding = self.padding
        if padding == "causal":
            pads = [[0, 0]] * 3
            pads[steps_axis] = [self.dilation_rate[0] * (self.kernel_size[0] - 1), 0]
            inputs, padding = ops.pad(inputs, pads), "valid"
        outputs = ops.conv(
            ops.expand_dims(inputs, steps_axis),
            self.device_kernel(),
            strides=(1, *self.strides),
            padding=padding,
            dilation_rate=(1, *self.dilation_rate),
            data_format=self.data_format,
        )
        return ops.squeeze(outputs, steps_axis)


class _Depthwise(KernelTwin):
    def quantization_axis(self, name):
        return -1

    def round_twice(self, name):
        return half_away

    def to_device(self, name, kernel):
        return _flat_channels(kernel)

    def linear(self, inputs):
        return _depthwise(self, inputs, self.effective())


class _Separable(KernelTwin):
    kernel_names = ("depthwise_kernel", "pointwise_kernel")

    def build_state(self):
        if "kernel" in self.quantizers and "depthwise" not in self.quantizers:
            self.quantizers = (*self.quantizers, "depthwise")
        super().build_state()

    def quantization_axis(self, name):
        return -1

    def round_twice(self, name):
        return half_away if name == "depthwise_kernel" else half_up

    def to_device(self, name, kernel):
        if name == "depthwise_kernel":
            return _flat_channels(kernel)
        return ops.reshape(kernel, (1, 1, *kernel.shape[-2:]))

    def sums(self, inputs):
        between = getattr(self, "depthwise_quantizer", None)
        return self._sums_of("pointwise_kernel", between)

    def linear(self, inputs):
        between = _depthwise(self, inputs, self.effective("depthwise_kernel"))
        mark(between, self._sums_of("depthwise_kernel", grid_of(inputs)))
        return ops.conv(
            self.fake_quantize("depthwise", between),
            self.device_kernel("pointwise_kernel"),
            strides=1,
            padding="valid",
            data_format=self.data_format,
        )


class _Series:
    """Mixin: LiteRT computes layers of one dimension as images of height 1."""

    def linear(self, inputs):
        axis = 1 if self.data_format == "channels_last" else 2
        image = mark(ops.expand_dims(inputs, axis), grid_of(inputs))
        return ops.squeeze(super().linear(image), axis)


@_twin_of(keras.layers.DepthwiseConv1D)
class MicroDepthwiseConv1D(_Series, _Depthwise, keras.layers.DepthwiseConv1D):
    """A `DepthwiseConv1D` layer with a mask and fake quantisers; a scale a channel."""


@_twin_of(keras.layers.DepthwiseConv2D)
class MicroDepthwiseConv2D(_Depthwise, keras.layers.DepthwiseConv2D):
    """A `DepthwiseConv2D` layer with a mask and fake quantisers; a scale a channel."""


@_twin_of(keras.layers.SeparableConv1D)
class MicroSeparableConv1D(_Series, _Separable, keras.layers.SeparableConv1D):
    """A `SeparableConv1D` layer with masks and fake quantisers; a scale a channel.

    As `MicroSeparableConv2D`, over a series.
    """


@_twin_of(keras.layers.SeparableConv2D)
class MicroSeparableConv2D(_Separable, keras.layers.SeparableConv2D):
    """A `SeparableConv2D` layer with masks and fake quantisers; a scale a channel.

    LiteRT computes it as two convolutions. With `"kernel"` among the quantisers,
    the tensor between them is quantised too.
    """


@_twin_of(keras.layers.Conv2DTranspose)
class MicroConv2DTranspose(KernelTwin, keras.layers.Conv2DTranspose):
    """A `Conv2DTranspose` layer with a mask and fake quantisers; one scale a kernel.

    LiteRT has none of 4 bits: with a scheme of fewer than 5, its kernel has 8.
    """

    least_bits = 5

    def linear(self, inputs):
        return ops.conv_transpose(
            inputs,
            self.effective(),
            strides=list(self.strides),
            padding=self.padding,
            output_padding=self.output_padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )


def _flat_channels(kernel):
    """LiteRT stores the filters of all input channels along one axis."""
    *size, channels, multiplier = kernel.shape
    height, width = (1, *size)[-2:]
    return ops.reshape(kernel, (height, width, 1, channels * multiplier))


def _depthwise(layer, inputs, kernel):
    strides, dilation = layer.strides, layer.dilation_rate
    if layer.rank == 1:  # TensorFlow wants equal strides; a height of 1 stays 1
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
