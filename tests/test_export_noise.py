"""The inputs on which a file is compared where no data are given."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_micronets.export import make_file
from keras_micronets.export.tflite import convert_tflite
from keras_micronets.layers import prepare, set_quantizers

pytestmark = pytest.mark.tensorflow
WORDS, LENGTH = 30, 12


def text(mask_zero):
    return [
        keras.Input((LENGTH,), dtype="int32"),
        layers.Embedding(WORDS, 6, mask_zero=mask_zero),
        layers.GlobalAveragePooling1D(),
        layers.Dense(3),
    ]


def image(scale, offset):
    return [
        keras.Input((8, 8, 3)),
        layers.Rescaling(scale, offset),
        layers.Conv2D(4, 3),
        layers.GlobalAveragePooling2D(),
    ]


def exported(model, x, monkeypatch):
    """Return the report of a file with learned ranges, and the noise it was run on."""
    noise = []
    real = make_file._inputs
    monkeypatch.setattr(
        make_file, "_inputs", lambda *args: noise.append(real(*args)) or noise[-1]
    )
    prepare(model, quantize=True)
    set_quantizers(model, True)
    model(x, training=True)
    return convert_tflite(model, "m.tflite").report, noise[0][0]


@pytest.mark.parametrize("mask_zero", [True, False])
def test_tokens_are_those_of_the_embedding(mask_zero, monkeypatch):
    model = keras.Sequential(text(mask_zero))
    tokens = np.random.default_rng(0).integers(1, WORDS, (64, LENGTH))
    report, noise = exported(model, tokens, monkeypatch)
    assert set(noise.ravel()) == set(range(int(mask_zero), WORDS))
    assert report.largest_difference <= 1
    assert (report.n_compared, report.compared_on) == (64, "noise")
    assert "64 samples of noise" in str(report)


@pytest.mark.parametrize(("scale", "offset"), [(1 / 255, 0), (1 / 127.5, -1)])
def test_pixels_of_a_rescaling(scale, offset, monkeypatch):
    model = keras.Sequential(image(scale, offset))
    x = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3)).astype("float32")
    report, noise = exported(model, x, monkeypatch)
    assert report.largest_difference <= 1
    assert 0 <= noise.min() < 2
    assert 253 < noise.max() <= 255.5


def test_data_are_named_in_the_report():
    model = keras.Sequential(text(False))
    tokens = np.random.default_rng(0).integers(0, WORDS, (20, LENGTH))
    report = convert_tflite(model, "m.tflite", representative_data=tokens).report
    assert (report.n_compared, report.compared_on) == (20, "representative data")
