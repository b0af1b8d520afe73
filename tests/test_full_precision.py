"""Models trained in mixed precision can be exported."""

import keras
import pytest
from model_cases import images, residual, subclassed

from keras_micronets import _keras_private, export_tflite
from keras_micronets.export.model_graph import full_precision
from keras_micronets.layers import prepare, set_quantizers

POLICIES = ("mixed_float16", "mixed_bfloat16")


@pytest.fixture(params=POLICIES)
def policy(request):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


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
