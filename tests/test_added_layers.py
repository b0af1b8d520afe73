"""Layers that a row of LiteRT's table added: pruned, saved, stripped and exported."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_micronets import sparsity_report, strip
from keras_micronets.callbacks import ChannelPruning, WeightPruning
from keras_micronets.export import export_tflite
from keras_micronets.layers import (
    MicroConv3D,
    MicroConv3DTranspose,
    MicroEmbedding,
    QuantizationScheme,
    kernels,
    prepare,
    set_quantizers,
)
from keras_micronets.schedules import Constant


def volumes():
    inputs = keras.Input((5, 6, 6, 2))
    x = layers.Conv3D(4, 3, activation="relu", name="volume")(inputs)
    x = layers.Conv3D(6, (1, 3, 3), use_bias=False, name="second")(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(layers.Flatten()(x)))


def transposed():
    inputs = keras.Input((3, 3, 3, 2))
    x = layers.Conv3DTranspose(4, 3, activation="relu", name="volume")(inputs)
    x = layers.Conv3DTranspose(6, (1, 3, 3), strides=(1, 2, 2), name="second")(x)
    x = layers.GlobalAveragePooling3D()(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def words():
    inputs = keras.Input((7,), dtype="int32")
    x = layers.Embedding(12, 8, name="words")(inputs)
    x = layers.Conv1D(6, 3, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(layers.Flatten()(x)))


MODELS = {"Conv3D": volumes, "Conv3DTranspose": transposed, "Embedding": words}
CLASSES = {
    "Conv3D": MicroConv3D,
    "Conv3DTranspose": MicroConv3DTranspose,
    "Embedding": MicroEmbedding,
}
every_layer = pytest.mark.parametrize("kind", MODELS)


def data(model, n=48):
    rng = np.random.default_rng(0)
    shape = (n, *model.input_shape[1:])
    integers = "int" in model.inputs[0].dtype
    x = rng.integers(0, 12, shape) if integers else rng.normal(size=shape)
    return x.astype(model.inputs[0].dtype), rng.integers(0, 3, n)


def trained(kind, *callbacks, epochs=3):
    keras.utils.set_random_seed(1)
    model = MODELS[kind]()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    x, y = data(model)
    model.fit(x, y, batch_size=16, epochs=epochs, verbose=0, callbacks=list(callbacks))
    return model


def pruned(kind):
    return trained(kind, WeightPruning(Constant(0.5), frequency=1))


def predictions(model):
    return keras.ops.convert_to_numpy(model(data(model)[0], training=False))


@every_layer
def test_preparation_changes_no_prediction(kind):
    model = MODELS[kind]()
    before = predictions(model)
    prepare(model, quantize=True)
    assert type(model.layers[1]) is CLASSES[kind]
    np.testing.assert_array_equal(predictions(model), before)


@every_layer
def test_weights_are_pruned(kind):
    model = pruned(kind)
    first = kernels(model)[0]
    assert first.path == model.layers[1].name
    assert first.sparsity == pytest.approx(0.5, abs=0.02)
    assert not first.weights[~first.mask].any()
    assert first.path in str(sparsity_report(model))


@every_layer
def test_saves_loads_and_strips(kind, tmp_path):
    model = pruned(kind)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(kernels(loaded)[0].mask, kernels(model)[0].mask)
    plain = strip(loaded)
    assert type(plain.layers[1]) is getattr(layers, kind)
    for other in (loaded, plain):
        np.testing.assert_allclose(predictions(other), predictions(model), atol=1e-6)


@every_layer
@pytest.mark.tensorflow
def test_exports_in_float(kind, tmp_path):
    model = pruned(kind)
    path = tmp_path / "model.tflite"
    assert export_tflite(model, path, quantization=None).largest_difference < 1e-4


@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore:The int8 file of .* differs")
def test_an_integer_file_with_a_convolution_in_float_is_announced(tmp_path):
    model = volumes()
    floating = prepare(model, quantize=True).floating
    assert floating == (
        "volume (Conv3D): LiteRT has no integer Conv3D",
        "second (Conv3D): LiteRT has no integer Conv3D",
    )
    set_quantizers(model, True)
    model(data(model)[0], training=True)
    report = export_tflite(model, tmp_path / "model.tflite")
    assert report.float_operations["CONV_3D"] == 2


@every_layer
def test_channels_are_cut(kind):
    """The compact model computes what the masked one does."""
    callback = ChannelPruning(params=0.7, round_to=1, min_channels=1, end=0.4)
    model = trained(kind, callback, epochs=5)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(callback.compact_(data(model)[0], training=False)),
        predictions(model),
        atol=1e-5,
    )
    name = model.layers[1].name
    assert len(callback.plan_.kept[name]) < model.layers[1].output.shape[-1]


def of_words(read):
    inputs = keras.Input((7,), dtype="int32")
    x = read(layers.Embedding(12, 8, name="words")(inputs))
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))


READERS = {
    "convolution": lambda x: layers.Conv1D(6, 3, activation="relu")(x),
    "mean": lambda x: layers.GlobalAveragePooling1D()(x),
    "largest": lambda x: layers.GlobalMaxPooling1D()(x),
    "swish": lambda x: layers.Activation("swish")(x),
    "rectifier": lambda x: layers.ReLU()(x),
    "two": lambda x: layers.Add()([x, layers.Conv1D(8, 1)(x)]),
    "joined": lambda x: layers.Concatenate()([x, layers.Conv1D(8, 1)(x)]),
}


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("kind", READERS)
def test_an_embedding_in_an_integer_file(kind, bits, tmp_path):
    """Masked or not, the file has the integers of the model, and no float."""
    model = of_words(READERS[kind])
    prepare(model, quantize=QuantizationScheme(kernel_bits=bits))
    table = kernels(model)[0]
    table.set_mask(np.random.default_rng(0).random(table.mask.shape) < 0.5)
    set_quantizers(model, True)
    model(data(model)[0], training=True)
    x = data(model)[0]
    report = export_tflite(model, tmp_path / "model.tflite", representative_data=x)
    assert not report.float_operations
    assert report.largest_difference == 0
    assert "GATHER" in report.operations
    assert "QUANTIZE" not in report.operations


def test_only_the_output_of_an_embedding_is_quantised():
    model = words()
    assert prepare(model, quantize=True).floating == ()
    assert model.get_layer("words").quantizers.names == ("output",)


def test_an_embedding_of_a_subclassed_model_is_quantised_alike():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.words = layers.Embedding(12, 8)

        def call(self, x):
            return self.words(x)

    model = Net()
    model(data(words())[0])
    prepare(model, quantize=True)
    assert model.words.quantizers.names == ("output",)
