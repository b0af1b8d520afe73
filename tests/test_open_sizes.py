"""Models that leave height, width or time open."""

import keras
import numpy as np
import pytest
from keras import layers
from model_cases import images

from keras_micronets import EnsemblePruner, LearnerPool, export_tflite
from keras_micronets.export.conversion.converter import convert
from keras_micronets.export.tflite_model import TFLiteModel
from keras_micronets.layers import prepare, set_quantizers

pytestmark = pytest.mark.tensorflow


def samples(*sizes, n=8):
    return np.random.default_rng(0).normal(size=(n, *sizes, 3)).astype("float32")


def segmentation(x):
    return layers.Conv2D(2, 1)(layers.Conv2D(4, 3, padding="same")(x))


def classifier(x):
    x = layers.Conv2D(4, 3, strides=2, activation="relu")(x)
    return layers.Dense(3)(layers.GlobalAveragePooling2D()(x))


def enlarged(x):
    x = layers.Conv2D(4, 3, 2, padding="same")(x)
    return layers.UpSampling2D(interpolation="bilinear")(x)


def windows(x):
    return layers.Dense(3)(layers.GlobalAveragePooling1D()(layers.Conv1D(4, 3)(x)))


def open_model(build, n_sizes=2, quantized=True):
    inputs = keras.Input((*n_sizes * [None], 3))
    model = keras.Model(inputs, build(inputs), name=build.__name__)
    if quantized:
        prepare(model, quantize=True)
        set_quantizers(model, True)
        model(samples(*n_sizes * [16]), training=True)
    return model


@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize(
    ("build", "n_sizes"), [(segmentation, 2), (classifier, 2), (windows, 1)]
)
def test_a_file_with_open_sizes(build, n_sizes, quantized, tmp_path):
    model, path = open_model(build, n_sizes, quantized), tmp_path / "m.tflite"
    report = export_tflite(model, path, quantization="int8" if quantized else None)
    assert report.largest_difference <= (0 if quantized else 1e-4)
    file = TFLiteModel(path.read_bytes(), "m")
    assert file.inputs[0].shape == (1, *n_sizes * [32], 3)
    for size in (9, 24):
        x = samples(*n_sizes * [size])
        (raw,), expected = file.run([x]), model.predict(x, verbose=0)
        np.testing.assert_allclose(raw, file.outputs[0].quantize(expected), atol=1e-4)


def test_open_batch_and_sizes(tmp_path):
    path = tmp_path / "m.tflite"
    export_tflite(open_model(classifier), path, batch_size=None)
    (info,) = TFLiteModel(path.read_bytes(), "m").inputs
    assert info.shape == (1, 32, 32, 3)
    assert info.has_open_batch


@pytest.mark.parametrize("quantized", [True, False])
def test_sizes_that_are_given(quantized, tmp_path):
    model, path = open_model(enlarged, quantized=quantized), tmp_path / "m.tflite"
    data = samples(12, 8)
    report = export_tflite(
        model, path, input_shape=(12, 8, 3), representative_data=data
    )
    assert report.n_compared == len(data)
    (info,) = TFLiteModel(path.read_bytes(), "m").inputs
    assert (info.shape, info.is_open) == ((1, 12, 8, 3), False)
    assert model.input_shape == (None, None, None, 3)
    assert len(model.layers[1]._inbound_nodes) == 1  # the model is not called again


def test_a_layer_that_needs_sizes_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"(?s)'enlarged'.*UpSampling2D.*input_shape"):
        export_tflite(open_model(enlarged), tmp_path / "m.tflite")
    assert not list(tmp_path.iterdir())


BAD_SHAPES = [(12, 8), (12, 8, 4), (0, 8, 3), (None, 8, 3), (12.0, 8, 3)]


@pytest.mark.parametrize("shape", BAD_SHAPES)
def test_shapes_that_do_not_fit(shape, tmp_path):
    with pytest.raises(ValueError, match=r"each None of \(None, None, 3\)"):
        export_tflite(open_model(classifier), tmp_path / "m.tflite", input_shape=shape)


def test_data_of_another_size(tmp_path):
    model, path = open_model(classifier, quantized=False), tmp_path / "m.tflite"
    one, other = samples(8, 8), samples(9, 9)
    with pytest.raises(ValueError, match=r"\(samples, 8, 8, 3\).*\(8, 9, 9, 3\)"):
        export_tflite(model, path, input_shape=(8, 8, 3), representative_data=other)
    with pytest.raises(ValueError, match="samples of one size"):
        export_tflite(model, path, representative_data=[one, other])


def test_several_inputs(tmp_path):
    first, second = keras.Input((None, 3), name="a"), keras.Input((None, 2), name="b")
    pooled = [layers.GlobalMaxPooling1D()(x) for x in (first, second)]
    model = keras.Model([first, second], layers.Concatenate()(pooled))
    path = tmp_path / "m.tflite"
    export_tflite(model, path, quantization=None, input_shape=[(7, 3), (9, 2)])
    shapes = [info.shape for info in TFLiteModel(path.read_bytes(), "m").inputs]
    assert shapes == [(1, 7, 3), (1, 9, 2)]
    with pytest.raises(ValueError, match=r"\[\(None, 3\), \(None, 2\)\]"):
        export_tflite(model, path, quantization=None, input_shape=[(7, 3)])


@pytest.mark.parametrize("time", [None, 9])
@pytest.mark.parametrize("layer", [layers.LSTM, layers.GRU])
def test_loops_are_rejected_where_the_converter_crashes(layer, time):
    model = keras.Sequential([keras.Input((time, 3)), layer(2, name="cell")])
    with pytest.raises(ValueError, match=r"without loops.*cell.*unroll=True"):
        convert(model, quantization="int8", samples=[samples(9)])


def test_ensembles_need_known_sizes(tmp_path):
    pool = LearnerPool(tmp_path / "pool")
    for i in range(2):
        keras.utils.set_random_seed(i)
        pool.add(
            open_model(classifier, quantized=False), name=f"l{i}", from_logits=True
        )
    ensemble = EnsemblePruner(pool, n_members=2)
    x, y = images(32, shape=(16, 16, 3)), np.arange(32) % 3
    ensemble.prune(x, y)
    with pytest.raises(ValueError, match="Pass `input_shape`"):
        ensemble.export(tmp_path / "bundle", representative_data=x)
    shape = (16, 16, 3)
    ensemble.export(tmp_path / "bundle", representative_data=x, input_shape=shape)
    assert (tmp_path / "bundle").is_dir()
