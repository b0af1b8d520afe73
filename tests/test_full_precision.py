"""Models trained in mixed precision predict what their files return."""

import keras
import numpy as np
import pytest
from model_cases import SHAPE, images, labels, nested, outputs, residual, subclassed

from keras_micronets import _keras_private, export_tflite
from keras_micronets.callbacks import QuantizationAwareTraining
from keras_micronets.export.tflite_model import TFLiteModel
from keras_micronets.layers import prepare, set_quantizers
from keras_micronets.layers.micro.precision import full_precision

POLICIES = ("mixed_float16", "mixed_bfloat16")


@pytest.fixture(params=POLICIES)
def policy(request):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


def without_input():
    model = keras.Sequential(
        [
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    model.build((None, *SHAPE))
    return model


def augmented():
    """A plain layer reads the input, and others stand between micro layers."""
    inputs = keras.Input(SHAPE)
    x = keras.layers.Reshape((6, 18))(keras.layers.RandomFlip()(inputs))
    x = keras.layers.Conv1D(4, 3)(keras.layers.GaussianNoise(0.1)(x))
    x = keras.layers.Dropout(0.2)(x[:, 1:])
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x)))


def quantized(make):
    model = make()
    prepare(model, quantize=True)
    set_quantizers(model, True)
    model(images(64), training=True)
    return model


MODELS = [without_input, augmented, residual, nested, subclassed]


@pytest.mark.parametrize("make", MODELS)
def test_inference_is_in_float32_and_training_is_not(make, policy):
    model = quantized(make)
    mixed = outputs(model)
    assert mixed.dtype == "float32"
    with full_precision(model):
        np.testing.assert_array_equal(outputs(model), mixed)
    # XLA may compute the last bit otherwise.
    np.testing.assert_allclose(model.predict(images(), verbose=0), mixed, rtol=1e-6)

    trained = model(images(), training=True)
    assert keras.backend.standardize_dtype(trained.dtype) in policy
    assert model.dtype_policy.name == policy


@pytest.mark.tensorflow
@pytest.mark.parametrize("make", MODELS)
def test_predictions_are_those_of_the_file(make, policy, tmp_path):
    model = quantized(make)
    path = tmp_path / "model.tflite"
    export_tflite(model, path)
    file = TFLiteModel(path.read_bytes(), model.name)

    predicted = file.outputs[0].quantize(model.predict(images(200), verbose=0))
    np.testing.assert_array_equal(file.run([images(200)])[0], predicted)


def test_a_saved_model_predicts_the_same(policy, tmp_path):
    model = quantized(augmented)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(outputs(loaded), outputs(model))


def test_fit_scales_the_loss_and_returns_to_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = without_input()
        model.compile("adam", "sparse_categorical_crossentropy")
        data = images(), labels()
        callbacks = [QuantizationAwareTraining()]
        model.fit(*data, validation_data=data, callbacks=callbacks, verbose=0)
    finally:
        keras.config.set_dtype_policy("float32")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert {layer.compute_dtype for layer in model.layers} == {"float16"}


def test_pruned_models_compute_as_before(policy):
    model = without_input()
    before = outputs(model)
    prepare(model)
    np.testing.assert_array_equal(outputs(model), before)
    assert before.dtype == policy.removeprefix("mixed_")


def test_a_map_of_policies_is_restored():
    policies = keras.dtype_policies.DTypePolicyMap("mixed_bfloat16")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, dtype=policies)])
    with full_precision(model):
        assert "bfloat16" not in types(model)
    assert model.layers[0].compute_dtype == "bfloat16"


def types(model):
    return [layer.compute_dtype for layer in _keras_private.flatten_layers(model)]


@pytest.mark.parametrize("make", [residual, subclassed])
def test_a_model_computes_in_float32_and_then_as_before(make, policy):
    model = make()
    before = types(model)
    assert set(before) == {policy.removeprefix("mixed_")}
    with full_precision(model):
        assert set(types(model)) == {"float32"}
        outputs = model(images(4))
        assert keras.backend.standardize_dtype(outputs.dtype) == "float32"
    assert types(model) == before


def test_types_are_restored_after_an_error(policy):
    model = residual()
    with pytest.raises(RuntimeError), full_precision(model):
        raise RuntimeError
    assert "float32" not in types(model)


@pytest.mark.tensorflow
@pytest.mark.parametrize("how", ["float", "measured", "learned"])
def test_files(how, policy, tmp_path):
    model = residual()
    if how == "learned":
        prepare(model, quantize=True)
        set_quantizers(model, True)
        model(images(64), training=True)
    report = export_tflite(
        model,
        tmp_path / "model.tflite",
        quantization=None if how == "float" else "int8",
        representative_data=images(64),
    )
    tolerance = {"float": 1e-5, "measured": 3, "learned": 0}[how]
    assert report.largest_difference <= tolerance
    assert bool(report.float_operations) == (how == "float")
    assert model.compute_dtype == policy.removeprefix("mixed_")
