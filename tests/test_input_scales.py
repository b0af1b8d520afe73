"""Warnings of inputs that integers of one scale cannot tell apart."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_micronets.callbacks import QuantizationAwareTraining
from keras_micronets.export.tflite import convert_tflite
from keras_micronets.layers import prepare, set_quantizers

UNLIKE = np.array([1.0, 1e-6, 1.0, 1e-4], "float32")


def net():
    return keras.Sequential(
        [keras.Input((4,)), layers.Dense(8, "relu", name="first"), layers.Dense(2)]
    )


def data(scale=1.0):
    x = np.random.default_rng(0).normal(size=(64, 4))
    return (x * scale).astype("float32")


def fitted(x):
    model = net()
    model.compile("sgd", "mse")
    callbacks = [QuantizationAwareTraining()]
    model.fit(x, np.zeros((len(x), 2)), epochs=2, verbose=0, callbacks=callbacks)
    return model


def test_training_warns_once_of_tiny_inputs():
    with pytest.warns(UserWarning, match=r"first.*0\.005\. Normalise") as caught:
        fitted(data(1e-4))
    assert sum("Normalise" in str(one.message) for one in caught) == 1
    fitted(data(1e-2))


@pytest.mark.tensorflow
@pytest.mark.parametrize(("is_learned", "scale"), [(True, 1e-4), (False, 1e-8)])
def test_export_warns_of_tiny_data(is_learned, scale):
    model = net()
    if is_learned:
        prepare(model, quantize=True)
        set_quantizers(model, True)
        model(data(scale), training=True)
    with pytest.warns(UserWarning, match="first.*a part of the integers"):
        convert_tflite(model, "m.tflite", representative_data=data(scale))


@pytest.mark.tensorflow
def test_features_of_unlike_scale_are_lost():
    x, other = data(UNLIKE), data(UNLIKE)
    with pytest.warns(UserWarning, match=r"\[1, 3\].*first.*all 4"):
        file = convert_tflite(net(), "m.tflite", representative_data=x).model
    other[:, [1, 3]] = 0
    np.testing.assert_array_equal(file.run([other])[0], file.run([x])[0])
    other[:, 0] = 0
    assert np.any(file.run([other])[0] != file.run([x])[0])


ROWS = np.arange(64)[:, None]
HARMLESS = {
    "normal": data(),
    "a hundredfold": data(UNLIKE**0 * [1, 0.01, 1, 1]),
    "one hot": np.eye(4)[ROWS[:, 0] % 4],
    "rare": np.where(ROWS == [[0, 1, 2, 3]], 1.0, 0.0),
    "constant": np.hstack([data()[:, :2], 0 * ROWS, 1e-9 + 0 * ROWS]),
    "zeros": np.zeros((64, 4)),
}


@pytest.mark.tensorflow
@pytest.mark.parametrize("x", HARMLESS.values(), ids=HARMLESS)
def test_no_warning(x):
    convert_tflite(net(), "m.tflite", representative_data=x.astype("float32"))


@pytest.mark.tensorflow
def test_more_steps_hold_more():
    x = data(np.float32([1, 1e-4, 1, 1]))
    convert_tflite(net(), "m.tflite", quantization="int16", representative_data=x)
