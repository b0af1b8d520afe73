"""Observers work with all of Keras's ways to train."""

import keras
import numpy as np
import pytest
from backends import BACKEND
from tiny_keras import compiled, data, dense_model, fit

from keras_micronets import export_tflite
from keras_micronets.callbacks import QuantizationAwareTraining
from keras_micronets.layers.quantization import quantizers
from keras_micronets.layers.quantizers.observers import LearnedStepSize, Percentile

pytestmark = pytest.mark.slow

RANGES = {
    "percentile": Percentile(99.0, 0.9),
    "learned step": LearnedStepSize(),
}
every_way = pytest.mark.parametrize("observer", RANGES.values(), ids=RANGES)


@pytest.fixture
def half_precision():
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy("float32")


def trained(observer, optimizer="adam", **options):
    """Train, and quantise from the second epoch on."""
    model = compiled(dense_model(), optimizer, **options)
    qat = QuantizationAwareTraining(0.25, observer=observer)
    losses = fit(model, qat, epochs=4).history["loss"]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    return model


def assert_learned(model, path):
    """Assert finite ranges, a first one near the data's, and a valid file."""
    found = [q for q in quantizers(model) if hasattr(q, "bounds")]
    assert len(found) == 4
    for quantizer in found:
        lower, upper = (float(bound) for bound in quantizer.bounds())
        assert lower <= 0 < upper
        assert np.isfinite(upper - lower)
    x, _ = data()
    lower, upper = found[0].bounds()
    assert 0.5 < float(upper) / x.max() < 1.5
    if BACKEND == "tensorflow":
        report = export_tflite(model, path / "model.tflite")
        assert report.largest_difference <= 1
        assert not report.float_operations


@every_way
def test_with_xla(observer, tmp_path):
    if BACKEND == "torch":
        pytest.skip("Keras does not compile there")
    assert_learned(trained(observer, jit_compile=True), tmp_path)


@every_way
def test_in_half_precision(observer, tmp_path, half_precision):
    model = trained(observer)
    if BACKEND == "tensorflow":  # others scale no losses by themselves
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert_learned(model, tmp_path)
    for quantizer in quantizers(model):
        for variable in quantizer.variables:
            assert variable.dtype in ("bool", "float32")


@every_way
def test_with_averaged_weights(observer, tmp_path):
    """Averages replace the weights at the end; learned ranges stay."""
    optimizer = keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.5)
    assert_learned(trained(observer, optimizer), tmp_path)
