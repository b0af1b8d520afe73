"""MicroLayers of the Keras layers that have kernels."""

import keras
from keras import ops

from keras_micronets.layers.layout import layout_of
from keras_micronets.layers.litert.affine import pointwise
from keras_micronets.layers.litert.capabilities import LAYERS
from keras_micronets.layers.litert.integer_operations import Accumulator, round_to_step
from keras_micronets.layers.litert.provenance import quantizer_of, tag
from keras_micronets.layers.micro.micro_layer import MicroLayer, micro_class
from keras_micronets.layers.state import Mask


class MicroKernelLayer(MicroLayer):
    """Mixin: a Keras layer that reads its kernels through masks and quantisers.

    The forward pass computes with `fake_quant(mask * kernel)`. The raw kernel is
    what trains, and what is saved and loaded.

    While it does not train, a layer rounds its bias to the integers that the device
    adds, the step of which is that of the input times that of the kernel.
    """

    keras_class: type
    kernel_names: tuple[str, ...]
    probe = None  # a function of (name, kernel) while `kernel_gradients` runs

    def build_state(self):
        for name in self.kernel_names:
            shape = getattr(self, name).shape
            if not hasattr(self, f"{name}_mask"):
                mask = Mask(name=f"{name}_mask", dtype=self.dtype_policy)
                setattr(self, f"{name}_mask", self.build_nested(mask, shape))
            if self.quantizers.kernel and not hasattr(self, f"{name}_quantizer"):
                shape = self.to_device(name, ops.zeros(shape)).shape
                quantizer = self.scheme.kernel_quantizer(
                    axis=self.quantization_axis(name),
                    least_bits=self.kernel_row(name).min_bits,
                    name=f"{name}_quantizer",
                    dtype=self.dtype_policy,
                )
                setattr(self, f"{name}_quantizer", self.build_nested(quantizer, shape))
        super().build_state()

    def kernel_row(self, name):
        """Return what LiteRT's table says of a kernel."""
        return LAYERS[self.keras_class].kernels[name]

    def quantization_axis(self, name):
        """Return the axis of a kernel with a scale for each index, or `None`."""
        row = self.kernel_row(name)
        return row.normalized_axis if self.quantizers.per_unit else row.axis

    def masked_kernel(self, name="kernel"):
        """Return a kernel with its mask applied, not quantised."""
        mask = getattr(self, f"{name}_mask")
        return mask(ops.convert_to_tensor(getattr(self, name)))

    def device_kernel(self, name="kernel"):
        """Return a kernel as the forward pass reads it, in the device's layout."""
        kernel = self.masked_kernel(name)
        if self.probe is not None:
            kernel = self.probe(name, kernel)
        return self.fake_quantize(name, self.to_device(name, kernel))

    def to_device(self, name, kernel):
        """Reshape a kernel to the layout in which the device quantises it."""
        return kernel

    def effective_kernel(self, name="kernel"):
        """Return a kernel as the forward pass reads it, in its own shape."""
        return ops.reshape(self.device_kernel(name), getattr(self, name).shape)

    def linear(self, inputs):
        """Apply the layer without its bias and activation."""
        raise NotImplementedError

    def call(self, inputs, training=None):
        inputs = self.quantize_inputs(inputs)
        outputs = self.linear(inputs)
        sums = self.sums(inputs)
        if self.bias is not None:
            bias = self.bias
            if sums is not None and not training:
                bias = round_to_step(bias, sums.scale(), sums.is_on())
            outputs = ops.add(outputs, self.shaped(bias))
        outputs = self.fake_quantize("preactivation", tag(outputs, sums))
        return self.activate(outputs, self.activation)

    def sums(self, inputs):
        """Return what the device knows of the sums that `linear` makes, or `None`."""
        return self._sums_of(self.kernel_names[-1], quantizer_of(inputs))

    def _sums_of(self, name, grid):
        if grid is None or not self.quantizers.kernel:
            return None
        quantizer = getattr(self, f"{name}_quantizer")

        def limit():
            return quantizer.limit(self.to_device(name, self.masked_kernel(name)))

        bits = quantizer.bits_in_file
        halves = self._second_rounding(name) if bits == 4 else None
        return Accumulator(grid, limit, bits, halves)

    def _second_rounding(self, name):
        axis, n_inputs = self.quantization_axis(name), layout_of(self, name).shape[-2]
        return self.kernel_row(name).second_rounding(axis, n_inputs)

    def shaped(self, bias):
        if getattr(self, "data_format", None) == "channels_first":
            return ops.reshape(bias, (1, -1) + (1,) * self.rank)
        return bias


@micro_class(keras.layers.Dense)
class MicroDense(MicroKernelLayer, keras.layers.Dense):
    """A `Dense` layer with a mask and fake quantisers; one scale a kernel.

    With `quantizers.per_unit` each unit has a scale, as batch normalisation after it
    needs. The converter takes one scale for a fully connected operation, so the file
    has a 1 x 1 convolution.
    """

    def to_device(self, name, kernel):
        return kernel[None, None] if self.quantizers.per_unit else kernel

    def linear(self, inputs):
        grid = quantizer_of(inputs)
        if self.quantizers.per_unit and grid is not None and grid.constant:
            return pointwise(inputs, self.device_kernel())
        return ops.matmul(inputs, self.effective_kernel())


@micro_class(keras.layers.EinsumDense)
class MicroEinsumDense(MicroKernelLayer, keras.layers.EinsumDense):
    """An `EinsumDense` layer with a mask and fake quantisers; one scale a kernel."""

    def linear(self, inputs):
        return ops.einsum(self.equation, inputs, self.effective_kernel())


@micro_class(keras.layers.Conv2D)
class MicroConv2D(MicroKernelLayer, keras.layers.Conv2D):
    """A `Conv2D` layer with a mask and fake quantisers; a scale for each filter."""

    def linear(self, inputs):
        return self.convolution_op(inputs, self.effective_kernel())


@micro_class(keras.layers.Conv3D)
class MicroConv3D(MicroKernelLayer, keras.layers.Conv3D):
    """A `Conv3D` layer with a mask; files compute it in float."""

    def linear(self, inputs):
        return self.convolution_op(inputs, self.effective_kernel())


@micro_class(keras.layers.Conv1D)
class MicroConv1D(MicroKernelLayer, keras.layers.Conv1D):
    """A `Conv1D` layer with a mask and fake quantisers; a scale for each filter.

    It computes a 2-D convolution of height 1: LiteRT has no other, and the
    converter takes a scale for each filter only where it sees none being reshaped.
    """

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


class _Depthwise(MicroKernelLayer):
    def to_device(self, name, kernel):
        return _flat_channels(kernel)

    def linear(self, inputs):
        return _depthwise(self, inputs, self.effective_kernel())


class _Separable(MicroKernelLayer):
    def build_state(self):
        super().build_state()
        if self.quantizers.kernel:
            self.add_quantizer("depthwise")

    def to_device(self, name, kernel):
        if name == "depthwise_kernel":
            return _flat_channels(kernel)
        return ops.reshape(kernel, (1, 1, *kernel.shape[-2:]))

    def sums(self, inputs):
        between = getattr(self, "depthwise_quantizer", None)
        return self._sums_of("pointwise_kernel", between)

    def linear(self, inputs):
        between = _depthwise(self, inputs, self.effective_kernel("depthwise_kernel"))
        tag(between, self._sums_of("depthwise_kernel", quantizer_of(inputs)))
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
        image = tag(ops.expand_dims(inputs, axis), quantizer_of(inputs))
        return ops.squeeze(super().linear(image), axis)


@micro_class(keras.layers.DepthwiseConv1D)
class MicroDepthwiseConv1D(_Series, _Depthwise, keras.layers.DepthwiseConv1D):
    """A `DepthwiseConv1D` layer with a mask and fake quantisers; a scale a channel."""


@micro_class(keras.layers.DepthwiseConv2D)
class MicroDepthwiseConv2D(_Depthwise, keras.layers.DepthwiseConv2D):
    """A `DepthwiseConv2D` layer with a mask and fake quantisers; a scale a channel."""


@micro_class(keras.layers.SeparableConv1D)
class MicroSeparableConv1D(_Series, _Separable, keras.layers.SeparableConv1D):
    """A `SeparableConv1D` layer with masks and fake quantisers; a scale a channel.

    As `MicroSeparableConv2D`, over a series.
    """


@micro_class(keras.layers.SeparableConv2D)
class MicroSeparableConv2D(_Separable, keras.layers.SeparableConv2D):
    """A `SeparableConv2D` layer with masks and fake quantisers; a scale a channel.

    LiteRT computes it as two convolutions. With `quantizers.kernel` the
    tensor between them is quantised too.
    """


@micro_class(keras.layers.Conv2DTranspose)
class MicroConv2DTranspose(MicroKernelLayer, keras.layers.Conv2DTranspose):
    """A `Conv2DTranspose` layer with a mask and fake quantisers; one scale a kernel.

    LiteRT has none of 4 bits: with a scheme of fewer than 5, its kernel has 8.
    """

    def linear(self, inputs):
        return ops.conv_transpose(
            inputs,
            self.effective_kernel(),
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
