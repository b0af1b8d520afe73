"""Each call of a layer has its ranges, as in files, also in copies and in training."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from model_cases import images

from keras_micronets import _keras_private, export_tflite, strip
from keras_micronets.layers import (
    ActivationQuantizer,
    QuantizationScheme,
    clone,
    prepare,
    set_quantizers,
)
from keras_micronets.layers.micro.micro_layer import is_micro_layer
from keras_micronets.layers.quantizers.observers import MovingAverage
from keras_micronets.layers.quantizers.scheme import QuantizerSpec
from keras_micronets.layers.reports import quantizers_of

SHAPE = (8, 8, 3)


def conv(filters=3, **kwargs):
    return layers.Conv2D(filters, 3, padding="same", **kwargs)


def twice_in_a_row(x):
    shared = conv()
    return shared(shared(x))


def unlike_inputs(x):
    """Call a layer on the model's input and on the output of a sigmoid."""
    shared = conv()
    return layers.Add()([shared(x), shared(layers.Activation("sigmoid")(x))])


def fused_at_one_call(x):
    """Normalise the output of one of two calls."""
    shared = conv()
    y = layers.ReLU()(layers.BatchNormalization()(shared(x)))
    return layers.Add()([shared(y), y])


def normalised_twice(x):
    shared, norm = conv(), layers.BatchNormalization()
    return norm(shared(norm(shared(x))))


def two_normalisations(x):
    shared = conv()
    first = layers.BatchNormalization()(shared(x))
    return layers.BatchNormalization()(shared(layers.ReLU()(first)))


def shared_rectifier(x):
    relu = layers.ReLU()
    return relu(conv()(relu(conv()(x))))


def shared_addition(x):
    add = layers.Add()
    y = add([conv()(x), x])
    return add([conv()(y), y])


def shared_model(x):
    inputs = keras.Input(SHAPE)
    y = layers.ReLU()(layers.BatchNormalization()(conv()(inputs)))
    inner = keras.Model(inputs, y)
    return inner(inner(x))


def unlike_shapes(x):
    shared = conv(3)
    pooled = shared(layers.MaxPooling2D()(x))
    return layers.Add()([layers.UpSampling2D()(pooled), shared(x)])


def shared_head(x):
    head = layers.Dense(4)
    return [head(x), head(layers.ReLU()(x))]


def called_three_times(x):
    """Call layers whose kernels have one scale, each three times."""
    flat = layers.Flatten()(x)
    dense, einsum = layers.Dense(5), layers.EinsumDense("ab,bc->ac", 6)
    transposed = layers.Conv2DTranspose(2, 3)
    found = []
    for scale in (1.0, 3.0, 0.2):
        found += [
            dense(layers.Rescaling(scale)(flat)),
            einsum(layers.Rescaling(scale)(flat)),
            transposed(layers.Rescaling(scale)(x)),
        ]
    return found


def pyramid(x):
    """Call one head on two levels of unlike scale."""
    inputs = keras.Input((None, None, 3))
    features = conv(6, activation="relu")(inputs)
    head = keras.Model(inputs, layers.Conv2D(4, 1)(features))
    y = layers.Conv2D(3, 3, strides=2, padding="same")(x)
    return [head(x), head(layers.Rescaling(0.1)(y))]


def siamese(x):
    """Call a model that shares a layer on two halves of the input."""
    inputs = keras.Input((8, 4, 3))
    shared = conv(activation="relu")
    features = layers.Dense(4)(layers.Flatten()(shared(shared(inputs))))
    tower = keras.Model(inputs, features, name="tower")
    left = layers.Cropping2D(((0, 0), (0, 4)))(x)
    right = layers.Rescaling(5.0)(layers.Cropping2D(((0, 0), (4, 0)))(x))
    return layers.Dense(2)(layers.Subtract()([tower(left), tower(right)]))


def joined_calls(x):
    """Concatenate the results of two calls, which share a range."""
    shared = conv(activation="relu")
    both = [shared(x), shared(layers.Rescaling(5.0)(x))]
    return conv()(layers.Concatenate()(both))


MODELS = (
    twice_in_a_row,
    unlike_inputs,
    fused_at_one_call,
    normalised_twice,
    two_normalisations,
    shared_rectifier,
    shared_addition,
    shared_model,
    unlike_shapes,
    shared_head,
    called_three_times,
    pyramid,
    siamese,
    joined_calls,
)


def model_of(build):
    keras.utils.set_random_seed(1)
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, build(inputs))
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if variable.name in ("bias", "beta", "moving_mean"):
            variable.assign(rng.uniform(-0.3, 0.3, variable.shape))
    return model


def quantized(build):
    """Return a quantised model of `build` that has seen data, and its report."""
    model = model_of(build)
    report = prepare(model, quantize=True)
    set_quantizers(model, True)
    for _ in range(3):
        model(images(64, shape=SHAPE), training=True)
    return model, report


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize("build", MODELS, ids=lambda build: build.__name__)
def test_the_file_of_a_shared_layer_computes_the_same(build, tmp_path):
    model, prepared = quantized(build)
    assert not prepared.floating
    data = images(64, shape=SHAPE, seed=2)
    report = export_tflite(model, tmp_path / "m.tflite", representative_data=data)
    assert not report.float_operations
    assert report.largest_difference == 0


def predictions(model, seed=3):
    found = model.predict(images(16, shape=SHAPE, seed=seed), verbose=0)
    return keras.tree.flatten(found)


def ranges(model):
    return {
        f"{layer.name} {name}": tuple(map(float, one.own_bounds()))
        for layer in _keras_private.flatten_layers(model)
        for name, one in quantizers_of(layer).items()
        if isinstance(one, ActivationQuantizer)
    }


@pytest.mark.parametrize(
    ("build", "largest"), [(pyramid, 0.02), (called_three_times, 0.03), (siamese, 0.06)]
)
def test_calls_of_unlike_scale_keep_their_accuracy(build, largest):
    model = model_of(build)
    expected = predictions(model)
    prepare(model, quantize=True)
    set_quantizers(model, True)
    for _ in range(3):
        model(images(64, shape=SHAPE), training=True)
    for one, other in zip(predictions(model), expected, strict=True):
        error = np.sqrt(np.mean((one - other) ** 2)) / other.std()
        assert error < largest


def copies(model, folder):
    model.save(folder / "m.keras")
    yield keras.saving.load_model(folder / "m.keras")
    yield clone(model)


@pytest.mark.parametrize(
    "build", [pyramid, siamese, joined_calls], ids=lambda build: build.__name__
)
def test_copies_predict_and_learn_the_same(build, tmp_path):
    model, _ = quantized(build)
    expected = predictions(model)
    found = list(copies(model, tmp_path))
    for copy in found:
        for one, other in zip(predictions(copy), expected, strict=True):
            np.testing.assert_array_equal(one, other)
    model(2 * images(8, shape=SHAPE), training=True)
    for copy in found:
        copy(2 * images(8, shape=SHAPE), training=True)
        found, wanted = ranges(copy).values(), ranges(model).values()
        np.testing.assert_allclose(list(found), list(wanted), rtol=1e-4)


def test_a_stripped_model_is_plain():
    model, _ = quantized(siamese)
    plain = strip(model)
    assert not any(map(is_micro_layer, _keras_private.flatten_layers(plain)))
    for one, other in zip(
        predictions(plain), predictions(model_of(siamese)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def dense(scale=1.0):
    """Return a Dense layer that multiplies two features by numbers."""
    layer = layers.Dense(2, use_bias=False, name="shared")
    layer.build((None, 2))
    layer.kernel.assign(scale * np.eye(2))
    return layer


def of_two_inputs():
    shared, inputs = dense(), [keras.Input((2,)), keras.Input((2,))]
    model = keras.Model(inputs, [shared(one) for one in inputs])
    prepare(model, quantize=QuantizationScheme(MovingAverage(0.5)))
    set_quantizers(model, True)
    return model, shared


SMALL = np.array([[-1.0, 2.0]], "float32")


def test_a_part_rounds_within_the_ranges_of_all_calls():
    model, shared = of_two_inputs()
    model([SMALL, 100 * SMALL], training=True)
    for output, scale in zip(model.outputs, (1, 100), strict=True):
        part = keras.Model(model.inputs, output)
        found = part.predict([SMALL, 100 * SMALL], verbose=0)
        np.testing.assert_allclose(found, scale * SMALL, atol=300 / 255)
    alone = ops.convert_to_numpy(shared(100 * SMALL))
    np.testing.assert_allclose(alone, 100 * SMALL, atol=300 / 255)
    whole = model.predict([SMALL, 100 * SMALL], verbose=0)
    np.testing.assert_allclose(whole[0], SMALL, atol=3 / 255)


@pytest.mark.tensorflow
def test_the_file_of_a_part_computes_the_same(tmp_path):
    model, shared = of_two_inputs()
    model([SMALL, 100 * SMALL], training=True)
    part = keras.Model(model.inputs[1], shared(model.inputs[1]))
    data = np.random.default_rng(0).uniform(-100, 200, (64, 2)).astype("float32")
    report = export_tflite(part, tmp_path / "m.tflite", representative_data=data)
    assert report.largest_difference == 0


class Twice(keras.Model):
    """Call a layer twice, on the input and on ten times the input."""

    def __init__(self):
        super().__init__()
        self.shared = dense()

    def call(self, x, training=None):
        first = self.shared(x, training=training)
        return first + self.shared(-10 * x, training=training)


def test_calls_that_no_graph_shows_move_one_range_by_their_union():
    model = Twice()
    model(SMALL)
    prepare(model, quantize=QuantizationScheme(MovingAverage(0.5)))
    set_quantizers(model, True)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    quantizer = model.shared.input_0_quantizer
    for scale, lower, upper in ((1, -20, 10), (3, -40, 20)):
        model.fit(scale * SMALL, SMALL, verbose=0)
        found = tuple(map(float, quantizer.own_bounds()))
        assert found == pytest.approx((lower, upper))


def test_each_call_of_a_graph_moves_its_range():
    model, shared = of_two_inputs()
    model.compile(keras.optimizers.SGD(0.0), "mse")
    for scale in (1, 3):
        x = [scale * SMALL, scale * 10 * SMALL]
        model.fit(x, x, verbose=0)
    own = [shared.quantizer("input_0", i).own_bounds() for i in (0, 1)]
    found = sorted(tuple(map(float, bounds)) for bounds in own)
    np.testing.assert_allclose(found, [(-20, 40), (-2, 4)], rtol=1e-6)


def test_a_layer_of_an_earlier_version_keeps_one_range():
    shared, inputs = dense(), [keras.Input((2,)), keras.Input((2,))]
    model = keras.Model(inputs, [shared(one) for one in inputs])
    prepare(model)
    shared.extend(QuantizerSpec(kernel=True, inputs=(0,), output=True))
    prepare(model, quantize=True)
    assert shared.quantizers.names == ("kernel", "input_0", "output")
    set_quantizers(model, True)
    model([SMALL, -10 * SMALL], training=True)
    found = tuple(map(float, shared.output_quantizer.own_bounds()))
    assert found == pytest.approx((-20, 10), rel=0.02)
