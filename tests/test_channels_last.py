"""Models of `channels_first` data, exported with their channels last."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_micronets as kmn
from keras_micronets.edge.inputs import read_image
from keras_micronets.edge.member import Member, quantize
from keras_micronets.export.conversion.channels_last import to_channels_last

L = keras.layers
SHAPE = (3, 12, 10)
FIRST = {"data_format": "channels_first"}


def conv(filters=6, size=3, **options):
    return L.Conv2D(filters, size, padding="same", **FIRST, **options)


def block(x, filters=6):
    x = L.BatchNormalization(axis=1)(conv(filters, use_bias=False)(x))
    return L.ReLU()(x)


def head(x):
    return L.Dense(4)(L.GlobalAveragePooling2D(**FIRST)(x))


def residual(x):
    x = block(x)
    return head(L.Add()([x, block(x)]))


def gate(x):
    x = block(x)
    scale = L.GlobalAveragePooling2D(keepdims=True, **FIRST)(x)
    x = L.Multiply()([x, conv(6, 1, activation="sigmoid")(scale)])
    narrow = L.Dense(6, "sigmoid")(L.GlobalMaxPooling2D(**FIRST)(x))
    return head(x * L.Reshape((6, 1, 1))(narrow))


def sizes(x):
    x = L.MaxPooling2D(2, **FIRST)(L.ZeroPadding2D((1, 2), **FIRST)(block(x)))
    x = L.UpSampling2D(2, **FIRST)(L.AveragePooling2D(2, **FIRST)(x))
    x = L.Conv2DTranspose(5, 3, strides=2, **FIRST)(L.Cropping2D(1, **FIRST)(x))
    return head(x)


def depthwise(x):
    x = L.DepthwiseConv2D(3, depth_multiplier=2, **FIRST)(x)
    # With as many filters as channels, TensorFlow computes another result.
    x = L.SeparableConv2D(5, 3, **FIRST)(L.Dropout(0.2)(x))
    return head(L.Concatenate(axis=1)([x, L.LeakyReLU()(x)]))


def flatten_as_channels_last(x):
    return L.Dense(4)(L.Flatten(data_format="channels_first")(block(x)))


def flatten_as_it_is(x):
    return L.Dense(4)(L.Flatten(data_format="channels_last")(block(x)))


def normalizations(x):
    x = L.GroupNormalization(2, axis=1)(block(x))
    if keras.backend.backend() != "torch":  # Keras fails there
        x = L.LayerNormalization(axis=1)(x)
    return head(L.Softmax(axis=1)(L.PReLU(shared_axes=[2, 3])(x)))


def operations(x):
    x = block(x)
    x = ops.maximum(x, 0.1 * x) - ops.sigmoid(x)
    x = ops.concatenate([x, ops.flip(x, axis=2)], axis=1)
    bias = np.arange(12, dtype="float32").reshape(12, 1, 1)
    return head((x + bias)[:, 1:, :, ::2])


def shared(x):
    layer = conv(3)
    x = L.Activation("tanh")(layer(layer(x)))
    return head(L.Average()([layer(x), x]))


def nested(x):
    inner = keras.Input((6, 12, 10))
    return head(keras.Model(inner, block(inner))(block(x)))


def normalized_input(x):
    return head(conv()(L.BatchNormalization(axis=1)(x)))


NETS = [residual, gate, sizes, depthwise, flatten_as_channels_last, flatten_as_it_is]
NETS += [normalizations, operations, shared, nested, normalized_input]


def model_of(net):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, net(inputs))
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if "variance" not in variable.path and "float" in variable.dtype:
            noise = 0.1 * rng.normal(size=variable.shape)
            variable.assign(variable + noise.astype("float32"))
    return model


def images(n=32, shape=SHAPE):
    return np.random.default_rng(1).normal(size=(n, *shape)).astype("float32")


def formats(model):
    inner = kmn._keras_private.flatten_layers(model)
    return {getattr(layer, "data_format", "channels_last") for layer in inner}


@pytest.mark.parametrize("net", NETS)
def test_the_copy_computes_the_same(net):
    model = model_of(net)
    last = to_channels_last(model)
    assert formats(last) == {"channels_last"}
    assert last.count_params() == model.count_params()
    expected = model.predict(images(), verbose=0)
    np.testing.assert_allclose(last.predict(images(), verbose=0), expected, atol=2e-5)


def test_series_and_sequential_models():
    model = keras.Sequential(
        [
            keras.Input((2, 20)),
            L.Conv1D(4, 3, **FIRST),
            L.BatchNormalization(axis=1),
            L.MaxPooling1D(2, **FIRST),
            L.GlobalAveragePooling1D(**FIRST),
        ]
    )
    x = images(5, (2, 20))
    last = to_channels_last(model)
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(last.predict(x, verbose=0), expected, atol=1e-5)


def test_outputs_keep_their_shape():
    inputs = keras.Input(SHAPE)
    x = block(inputs)
    model = keras.Model(inputs, {"map": conv(2)(x), "class": head(x)})
    last = to_channels_last(model)
    expected, got = (m.predict(images(), verbose=0) for m in (model, last))
    assert {*got} == {"map", "class"}
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, atol=1e-5)


def test_few_tensors_are_moved():
    last = to_channels_last(model_of(residual))
    assert sum(isinstance(layer, L.Permute) for layer in last.layers) == 1


def test_models_of_channels_last_are_returned():
    model = keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(4, 3), L.Flatten()])
    assert to_channels_last(model) is model


def quantized(net):
    model = model_of(net)
    kmn.layers.prepare(model, quantize=True)
    kmn.layers.set_quantizers(model, True)
    model(images(64), training=True)
    return model


@pytest.mark.tensorflow
@pytest.mark.parametrize("net", [residual, gate, depthwise, flatten_as_it_is, shared])
def test_files_equal_the_copy(net, tmp_path):
    model = quantized(net)
    for kernel in kmn.layers.kernels(model):
        kernel.set_mask(np.random.default_rng(0).random(kernel.mask.shape) < 0.5)
    report = kmn.export_tflite(
        model, tmp_path / "m.tflite", representative_data=images()
    )
    assert report.largest_difference <= 1
    assert report.share_within_one_step == 1
    assert report.n_masked == sum(
        k.mask.size - int(k.mask.sum()) for k in kmn.layers.kernels(model)
    )
    file = Member(tmp_path / "m.tflite", task="regression")
    assert file.input_shape == SHAPE
    expected = to_channels_last(model).predict(images(), verbose=0)
    steps = quantize(expected, file.output_dtype, *file.output_quantization)
    assert (file.predict_raw(images()) == steps).mean() > 0.99


@pytest.mark.parametrize("net", [residual, depthwise])
def test_it_trains_evaluates_and_exports(net, tmp_path):
    model = model_of(net)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    y = np.arange(32) % 4
    qat = kmn.callbacks.QuantizationAwareTraining(start=0.3)
    pruning = kmn.callbacks.WeightPruning(0.5)
    arguments = {"validation_data": (images(), y), "verbose": 0, "epochs": 3}
    model.fit(images(), y, callbacks=[qat, pruning], **arguments)
    kmn.export_tflite(model, tmp_path / "m.tflite")
    file = Member(tmp_path / "m.tflite", task="regression")
    in_keras = model.predict(images(), verbose=0)
    difference = np.abs(file.predict(images()) - in_keras)
    # Without LiteRT's integers, Keras may round a value to the neighbouring step.
    assert difference.max() <= 3 * file.output_quantization[0]


def test_images_are_read_with_their_channels_first(tmp_path):
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 3), "uint8")
    image.fromarray(pixels).save(tmp_path / "i.png")
    read = read_image(tmp_path / "i.png", SHAPE)
    np.testing.assert_array_equal(read, pixels.transpose(2, 0, 1)[None])
    grey = read_image(tmp_path / "i.png", (1, 12, 10))
    expected = np.asarray(image.open(tmp_path / "i.png").convert("L"))
    np.testing.assert_array_equal(grey, expected[None, None])
