"""With quantisers on, Keras predicts what LiteRT computes, integer for integer."""

import gc

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_micronets.export import export_tflite
from keras_micronets.layers import promote, set_quantizers, source

SHAPE = (8, 8, 3)


def images(n, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).normal(0, 1.5, (n, *shape)).astype("float32")


def conv(x, filters=6, size=3, **kwargs):
    return layers.Conv2D(filters, size, padding="same", **kwargs)(x)


def two_grids(x):
    """Two tensors that quantisers rounded, of unlike ranges."""
    return conv(x), layers.Activation("tanh")(conv(x))


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
    "transposed": lambda x: layers.BatchNormalization()(
        layers.Conv2DTranspose(4, 3, strides=2)(x)
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
    "mean": lambda x: layers.Dense(3)(layers.GlobalAveragePooling2D()(conv(x))),
    "sum": lambda x: layers.Add()(two_grids(x)),
    "rectified sum": lambda x: layers.ReLU()(layers.Add()(two_grids(x))),
    "difference": lambda x: layers.Subtract()(two_grids(x)),
    "product": lambda x: layers.Multiply()(two_grids(x)),
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


def learned(build, shape=SHAPE):
    keras.utils.set_random_seed(1)
    inputs = keras.Input(shape)
    model = keras.Model(inputs, build(inputs))
    randomize(model)
    promote(model, quantize=True)
    set_quantizers(model, True)
    model(images(64, shape), training=True)
    return model


def randomize(model):
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if getattr(layer, "bias", None) is not None:
            layer.bias.assign(rng.normal(0, 0.3, layer.bias.shape))
        if isinstance(layer, layers.BatchNormalization):
            for variable in layer.variables:
                variable.assign(rng.uniform(0.5, 1.5, variable.shape))
            if layer.scale:  # negative ones, too
                layer.gamma.assign(rng.uniform(0.5, 1.5, layer.gamma.shape) * -1)
            layer.trainable = False


@pytest.mark.tensorflow
@pytest.mark.parametrize("kind", MODELS)
def test_predictions_are_those_of_the_file(kind, tmp_path):
    model = learned(MODELS[kind])
    report = export_tflite(
        model, tmp_path / "model.tflite", representative_data=images(64, seed=2)
    )
    assert not report.float_operations
    assert report.largest_difference == 0


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
    promote(model, quantize=True)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(model(images(4), training=False)), before
    )


@pytest.mark.parametrize("kind", ["normalised", "rectified sum", "hard swish", "mean"])
def test_outputs_lie_on_the_grid(kind):
    """On every backend what is predicted are the integers of the last quantiser."""
    model = learned(MODELS[kind])
    outputs = ops.convert_to_numpy(model(images(8, seed=3), training=False))
    step = float(ops.convert_to_numpy(model.layers[-1].output_quantizer.scale()))
    integers = outputs / step
    np.testing.assert_allclose(integers, np.rint(integers), atol=1e-3)
    assert len(np.unique(np.rint(integers))) > 10


def test_a_subclassed_model_rounds_alike():
    """Sources follow the tensors, so no graph is needed."""

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.conv = layers.Conv2D(6, 3, padding="same", name="conv")

        def call(self, x):
            return self.conv(x)

    functional = learned(conv)
    model = Net()
    model(images(1))
    promote(model, quantize=True)
    model.set_weights(functional.get_weights())
    x = images(8, seed=3)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(model(x, training=False)),
        ops.convert_to_numpy(functional(x, training=False)),
    )


def test_inference_has_gradients():
    """Rounding to integers has none of its own."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("taken with TensorFlow's tape")
    import tensorflow as tf

    model = learned(MODELS["rectified sum"])
    x = tf.constant(images(2))
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(model(x, training=False))
    assert float(tf.reduce_max(tf.abs(tape.gradient(loss, x)))) > 0


def test_sources_are_forgotten_with_their_tensors():
    model = learned(MODELS["rectified sum"])
    model(images(2), training=False)
    model.predict(images(2), verbose=0)
    gc.collect()
    before = len(source._SOURCES)
    for _ in range(3):
        model(images(2), training=False)
    gc.collect()
    assert len(source._SOURCES) <= before
