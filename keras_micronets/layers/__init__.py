"""Twins of Keras layers that read their kernels through masks and fake quantisers."""

from keras_micronets.layers.activation_quantizer import ActivationQuantizer
from keras_micronets.layers.activation_twins import ACTIVATION_TWINS
from keras_micronets.layers.batches import batches
from keras_micronets.layers.clone import clone, keeps_state, strip
from keras_micronets.layers.gradients import kernel_gradients
from keras_micronets.layers.hold import hold
from keras_micronets.layers.kernel import Kernel, kernels, sparsity, write_zeros
from keras_micronets.layers.kernel_quantizer import KernelQuantizer
from keras_micronets.layers.kernel_twins import (
    MicroConv1D,
    MicroConv2D,
    MicroConv2DTranspose,
    MicroDense,
    MicroDepthwiseConv1D,
    MicroDepthwiseConv2D,
    MicroEinsumDense,
    MicroSeparableConv1D,
    MicroSeparableConv2D,
)
from keras_micronets.layers.layout import Layout
from keras_micronets.layers.mask import Mask
from keras_micronets.layers.promote import Promotion, promote
from keras_micronets.layers.quantization_report import (
    QuantizationReport,
    QuantizedTensor,
    quantization_report,
)
from keras_micronets.layers.quantization_scheme import QuantizationScheme
from keras_micronets.layers.quantizer_picture import plot_quantizers
from keras_micronets.layers.quantizers import (
    freeze_quantizers,
    quantized_share,
    set_quantizers,
)
from keras_micronets.layers.scope import Scope
from keras_micronets.layers.sparsity_report import SparsityReport, sparsity_report
