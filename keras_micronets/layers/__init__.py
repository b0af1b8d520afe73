"""Prunable and quantisable Keras layers, and tools to prepare models with them."""

from keras_micronets.layers.clone import clone, keeps_state, strip
from keras_micronets.layers.gradients import batches, kernel_gradients
from keras_micronets.layers.kernels import Kernel, kernels, sparsity, write_zeros
from keras_micronets.layers.layout import Layout
from keras_micronets.layers.micro.composites import (
    MicroBidirectional,
    MicroGroupQueryAttention,
    MicroMultiHeadAttention,
)
from keras_micronets.layers.micro.kernel_layers import (
    MicroConv1D,
    MicroConv1DTranspose,
    MicroConv2D,
    MicroConv2DTranspose,
    MicroConv3D,
    MicroConv3DTranspose,
    MicroDense,
    MicroDepthwiseConv1D,
    MicroDepthwiseConv2D,
    MicroEinsumDense,
    MicroEmbedding,
    MicroSeparableConv1D,
    MicroSeparableConv2D,
)
from keras_micronets.layers.micro.recurrent import MicroGRU, MicroLSTM, MicroSimpleRNN
from keras_micronets.layers.prepare import PreparationReport, prepare
from keras_micronets.layers.quantization import (
    constant_quantizers,
    freeze,
    quantized_share,
    set_quantizers,
)
from keras_micronets.layers.quantizers.activation import ActivationQuantizer
from keras_micronets.layers.quantizers.kernel import KernelQuantizer
from keras_micronets.layers.quantizers.scheme import QuantizationScheme, QuantizerSpec
from keras_micronets.layers.reports import (
    QuantizationReport,
    QuantizedTensor,
    SparsityReport,
    plot_quantizers,
    quantization_report,
    sparsity_report,
)
from keras_micronets.layers.scope import Scope
from keras_micronets.layers.side_by_side import SideBySide, members_of
from keras_micronets.layers.state import Mask, count_params, plain_weights

__all__ = [
    "ActivationQuantizer",
    "Kernel",
    "KernelQuantizer",
    "Layout",
    "Mask",
    "MicroConv1D",
    "MicroConv1DTranspose",
    "MicroConv2D",
    "MicroConv2DTranspose",
    "MicroConv3D",
    "MicroConv3DTranspose",
    "MicroDense",
    "MicroDepthwiseConv1D",
    "MicroDepthwiseConv2D",
    "MicroEinsumDense",
    "MicroSeparableConv1D",
    "MicroSeparableConv2D",
    "PreparationReport",
    "QuantizationReport",
    "QuantizationScheme",
    "QuantizedTensor",
    "QuantizerSpec",
    "Scope",
    "SideBySide",
    "SparsityReport",
    "batches",
    "clone",
    "constant_quantizers",
    "count_params",
    "freeze",
    "keeps_state",
    "kernel_gradients",
    "kernels",
    "members_of",
    "plain_weights",
    "plot_quantizers",
    "prepare",
    "quantization_report",
    "quantized_share",
    "set_quantizers",
    "sparsity",
    "sparsity_report",
    "strip",
    "write_zeros",
]
