"""With quantisers on, Keras predicts what LiteRT computes, integer for integer."""

import gc
import itertools

import keras
import numpy as np
import pytest
from exact_cases import (
    SHAPE,
    assert_equals_its_file,
    conv,
    images,
    learned,
    randomize,
    two_ranges,
)
from keras import layers, ops

from keras_micronets.export import export_tflite
from keras_micronets.layers import QuantizationScheme, prepare
from keras_micronets.layers.litert import provenance

MODELS = {
    "convolution": conv,
    "normalised": lambda x: layers.BatchNormalization()(conv(x)),
    "normalised without bias": lambda x: layers.ReLU()(
        layers.BatchNormalization(scale=False)(conv(x, use_bias=False))
    ),
    "depthwise": lambda x: layers.BatchNormalization()(
        layers.DepthwiseConv2D(3, depth_multiplier=2)(x)
    ),
    "separable": lambda x: layers.BatchNormalization()(layers.SeparableConv2D(5, 3)(x)),
    "depthwise series": lambda x: layers.BatchNormalization()(
        layers.DepthwiseConv1D(3)(layers.Reshape((16, 12))(x))
    ),
    "separable series": lambda x: layers.ReLU()(
        layers.BatchNormalization()(
            layers.SeparableConv1D(5, 3, strides=2)(layers.Reshape((16, 12))(x))
        )
    ),
    "transposed": lambda x: layers.BatchNormalization()(
        layers.Conv2DTranspose(4, 3, strides=2)(x)
    ),
    "transposed series": lambda x: layers.BatchNormalization()(
        layers.Conv1DTranspose(4, 3, strides=2)(layers.Reshape((16, 12))(x))
    ),
    "dense": lambda x: layers.Dense(7)(layers.Flatten()(x)),
    "normalised dense": lambda x: layers.Dense(4)(
        layers.ReLU()(layers.BatchNormalization()(layers.Dense(9)(layers.Flatten()(x))))
    ),
    "normalised alone": lambda x: conv(
        layers.ReLU()(layers.BatchNormalization()(layers.MaxPooling2D()(x)))
    ),
    "normalised features": lambda x: layers.BatchNormalization()(
        layers.ReLU()(layers.Dense(9)(layers.Flatten()(x)))
    ),
    "rescaled": lambda x: conv(layers.Rescaling(1 / 127.5, offset=-1)(x)),
    "average": lambda x: conv(layers.AveragePooling2D(2)(conv(x))),
    "average of nine": lambda x: layers.AveragePooling2D(3, padding="same")(conv(x)),
    "between pixels": lambda x: layers.UpSampling2D(interpolation="bilinear")(conv(x)),
    "mean": lambda x: layers.Dense(3)(layers.GlobalAveragePooling2D()(conv(x))),
    "sum": lambda x: layers.Add()(two_ranges(x)),
    "rectified sum": lambda x: layers.ReLU()(layers.Add()(two_ranges(x))),
    "difference": lambda x: layers.Subtract()(two_ranges(x)),
    "rectified difference": lambda x: layers.ReLU()(layers.Subtract()(two_ranges(x))),
    "product": lambda x: layers.Multiply()(two_ranges(x)),
    "rectified product": lambda x: layers.ReLU(6.0)(layers.Multiply()(two_ranges(x))),
    "rectified apart": lambda x: layers.Add()(
        [layers.ReLU()(y := conv(x)), layers.MaxPooling2D(1)(y)]
    ),
    "rectified twice": lambda x: layers.Add()(
        [
            conv(layers.ReLU()(y := layers.BatchNormalization()(conv(x)))),
            conv(layers.Activation("relu")(y), 6, 5),
        ]
    ),
    "leaky": lambda x: layers.LeakyReLU(0.2)(conv(x)),
    "swish": lambda x: conv(conv(x, activation="swish")),
    "swish layer": lambda x: layers.Activation("swish")(conv(x)),
    "hard swish": lambda x: conv(conv(x, activation="hard_swish")),
    "relu6": lambda x: conv(layers.ReLU(6.0)(conv(x))),
    "sigmoid": lambda x: conv(x, activation="sigmoid"),
    "softmax": lambda x: layers.Dense(5, "softmax")(layers.Flatten()(x)),
    "gelu": lambda x: layers.Activation("gelu")(conv(x)),
}


NARROW = {
    "normalised": MODELS["normalised"],
    "two convolutions": lambda x: conv(conv(x)),
    "depthwise": lambda x: layers.DepthwiseConv2D(3, depth_multiplier=2)(x),
    "separable": MODELS["separable"],
    "transposed": MODELS["transposed"],
    "odd dense": lambda x: layers.Dense(8)(x),
    "even dense": lambda x: layers.Dense(8)(layers.Flatten()(x)),
    "normalised dense": MODELS["normalised dense"],
    "einsum": lambda x: layers.EinsumDense("bhwc,cd->bhwd", (8, 8, 4), bias_axes="d")(
        x
    ),
    "one dimension": lambda x: layers.Conv1D(4, 3)(layers.Reshape((8, 24))(x)),
}


@pytest.mark.tensorflow
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.slow
def test_predictions_are_those_of_the_file(kind, tmp_path):
    assert_equals_its_file(learned(MODELS[kind]), tmp_path)


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("kind", "bits"),
    [("normalised", 2), ("normalised", 6), *itertools.product(NARROW, (3, 4))],
)
def test_predictions_are_those_of_a_file_of_few_bits(kind, bits, tmp_path):
    """Accumulators of 4-bit kernels are rounded twice, differently for each kernel."""
    model = learned(NARROW[kind], scheme=QuantizationScheme(kernel_bits=bits))
    report = assert_equals_its_file(model, tmp_path)
    narrow = bits <= 4 and kind != "transposed"
    assert set(report.weight_bytes) == {"int4" if narrow else "int8"}


@pytest.mark.tensorflow
def test_one_operation_for_a_normalisation_that_stands_alone(tmp_path):
    model = learned(MODELS["normalised alone"])
    report = export_tflite(model, tmp_path / "model.tflite")
    assert report.operations == {
        "MAX_POOL_2D": 1,
        "DEPTHWISE_CONV_2D": 1,
        "CONV_2D": 1,
    }


def test_nothing_is_rounded_while_quantisers_are_off():
    keras.utils.set_random_seed(1)
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, MODELS["normalised"](inputs))
    randomize(model)
    before = ops.convert_to_numpy(model(images(4), training=False))
    prepare(model, quantize=True)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(model(images(4), training=False)), before
    )


@pytest.mark.parametrize("kind", ["normalised", "rectified sum", "hard swish", "mean"])
def test_outputs_lie_on_the_grid(kind):
    """On every backend predictions are integers of the last quantiser."""
    model = learned(MODELS[kind])
    outputs = ops.convert_to_numpy(model(images(8, seed=3), training=False))
    step = float(ops.convert_to_numpy(model.layers[-1].output_quantizer.scale()))
    integers = outputs / step
    np.testing.assert_allclose(integers, np.rint(integers), atol=1e-3)
    assert len(np.unique(np.rint(integers))) > 10


def test_a_subclassed_model_rounds_alike():
    """Tensors are tagged with their origins, so no graph is needed."""

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.conv = layers.Conv2D(6, 3, padding="same", name="conv")

        def call(self, x):
            return self.conv(x)

    functional = learned(conv)
    model = Net()
    model(images(1))
    prepare(model, quantize=True)
    model.set_weights(functional.get_weights())
    x = images(8, seed=3)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(model(x, training=False)),
        ops.convert_to_numpy(functional(x, training=False)),
    )


def test_inference_has_gradients():
    """Rounding passes gradients straight through."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("taken with TensorFlow's tape")
    import tensorflow as tf

    model = learned(MODELS["rectified sum"])
    x = tf.constant(images(2))
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(model(x, training=False))
    assert float(tf.reduce_max(tf.abs(tape.gradient(loss, x)))) > 0


def test_origins_are_forgotten_with_their_tensors():
    model = learned(MODELS["rectified sum"])
    model(images(2), training=False)
    model.predict(images(2), verbose=0)
    gc.collect()
    before = len(provenance._ORIGINS)
    for _ in range(3):
        model(images(2), training=False)
    gc.collect()
    assert len(provenance._ORIGINS) <= before


@pytest.mark.tensorflow
def test_sums_of_many_terms_are_those_of_integers():
    """32-bit floats of 16,384 products that cancel would be off by some integers."""
    model = learned(lambda x: layers.Dense(8, use_bias=False)(x), shape=(16384,))
    layer, x = model.layers[-1], images(16, (16384,), seed=2)
    quantizer, limit = layer.input_0_quantizer, ops.max(ops.abs(layer.kernel))
    step = ops.convert_to_numpy(quantizer.scale()).astype("float64")
    kernel_step = ops.convert_to_numpy(limit).astype("float64") / 127
    rounded = quantizer(ops.convert_to_tensor(x))
    integers = np.rint(ops.convert_to_numpy(rounded) / step).astype("int64")
    kernel = ops.convert_to_numpy(layer.effective_kernel())
    sums = integers @ np.rint(kernel / kernel_step).astype("int64")

    found = ops.convert_to_numpy(layer.predict_linear(rounded)) / (step * kernel_step)
    np.testing.assert_allclose(found, sums, rtol=2e-7, atol=0.02)
